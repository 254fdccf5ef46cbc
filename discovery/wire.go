package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
)

const (
	identityHeader = "DiscoveryIdentity-Name"
	identity       = "roadbed"
	streamHeader   = "X-Registry-Stream"
	callTimeout    = 5 * time.Second
)

// HealthPath is the key of an instance's metadata that says at which path its health is asked for, which is told as healthCheckUrl, too.
const HealthPath = "healthCheckPath"

// The documents of Eureka's REST API, in the JSON that Netflix's and Spring's servers speak.
type applications struct {
	Applications struct {
		Hash        string        `json:"apps__hashcode"`
		Application []application `json:"application"`
	} `json:"applications"`
}

type application struct {
	Name     string       `json:"name"`
	Instance []wireRecord `json:"instance"`
}

type wireRecord struct {
	InstanceID  string            `json:"instanceId,omitempty"`
	HostName    string            `json:"hostName"`
	App         string            `json:"app"`
	IPAddr      string            `json:"ipAddr"`
	Status      string            `json:"status"`
	Port        wirePort          `json:"port"`
	SecurePort  wirePort          `json:"securePort"`
	DataCenter  wireDataCenter    `json:"dataCenterInfo"`
	Lease       wireLease         `json:"leaseInfo"`
	Metadata    map[string]string `json:"metadata"`
	VIP         string            `json:"vipAddress,omitempty"`
	SecureVIP   string            `json:"secureVipAddress,omitempty"`
	Dirty       wireNumber        `json:"lastDirtyTimestamp"`
	ActionType  string            `json:"actionType,omitempty"`
	ASGName     string            `json:"asgName,omitempty"`
	HomePageURL string            `json:"homePageUrl,omitempty"`
	HealthURL   string            `json:"healthCheckUrl,omitempty"`
}

type wirePort struct {
	Number  wireNumber `json:"$"`
	Enabled wireBool   `json:"@enabled"`
}

type wireDataCenter struct {
	Class    string            `json:"@class"`
	Name     string            `json:"name"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

type wireLease struct {
	Renewal   wireNumber `json:"renewalIntervalInSecs"`
	Duration  wireNumber `json:"durationInSecs"`
	ServiceUp wireNumber `json:"serviceUpTimestamp,omitempty"`
}

// wireNumber is an integer that some servers write as a string.
type wireNumber int64

func (n *wireNumber) UnmarshalJSON(b []byte) error {
	s := string(bytes.Trim(b, `"`))
	if s == "" || s == "null" {
		return nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	*n = wireNumber(v)
	return err
}

// wireBool is a boolean that is written as a string.
type wireBool bool

func (v wireBool) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, strconv.FormatBool(bool(v))), nil
}

func (v *wireBool) UnmarshalJSON(b []byte) error {
	*v = string(bytes.Trim(b, `"`)) == "true"
	return nil
}

// instances makes the platform's words of every instance in the document.
func (d applications) instances(region string) (out []roadbed.Instance) {
	for _, a := range d.Applications.Application {
		for _, w := range a.Instance {
			out = append(out, w.instance(region))
		}
	}
	return out
}

func (w wireRecord) instance(region string) roadbed.Instance {
	i := roadbed.Instance{
		ID: w.InstanceID, App: strings.ToLower(w.App), Group: w.ASGName, VIP: w.VIP, Host: w.IPAddr, Port: int(w.Port.Number),
		Location: roadbed.Location{Region: region, Zone: "default"}, Status: roadbed.ParseStatus(w.Status),
	}
	if i.Host == "" {
		i.Host = w.HostName
	}
	if i.ID == "" {
		i.ID = w.DataCenter.Metadata["instance-id"]
	}
	if i.ID == "" {
		i.ID = w.HostName
	}
	if bool(w.SecurePort.Enabled) && !bool(w.Port.Enabled) {
		i.Port, i.Secure = int(w.SecurePort.Number), true
		if i.VIP == "" {
			i.VIP = w.SecureVIP
		}
	}
	if w.Lease.ServiceUp > 0 {
		i.Since = time.UnixMilli(int64(w.Lease.ServiceUp)).UTC()
	}
	meta := maps.Clone(w.Metadata)
	if meta["@class"] == "java.util.Collections$EmptyMap" {
		delete(meta, "@class")
	}
	if len(meta) > 0 {
		i.Metadata = meta
	}
	if z := meta["region"]; z != "" {
		i.Location.Region = z
	}
	if z := meta["zone"]; z != "" {
		i.Location.Zone = z
	}
	if z := w.DataCenter.Metadata["availability-zone"]; z != "" {
		i.Location.Zone = z
	}
	return i
}

// toWire is how i registers.
func toWire(i roadbed.Instance, dirty int64) wireRecord {
	meta := maps.Clone(i.Metadata)
	if meta == nil {
		meta = make(map[string]string)
	}
	if i.Location.Zone != "" && meta["zone"] == "" {
		meta["zone"] = i.Location.Zone
	}
	if i.Location.Region != "" && meta["region"] == "" {
		meta["region"] = i.Location.Region
	}
	scheme := "http"
	w := wireRecord{
		InstanceID: i.ID, HostName: i.Host, App: strings.ToUpper(i.App), IPAddr: i.Host, Status: string(i.Status),
		Port:       wirePort{wireNumber(i.Port), wireBool(!i.Secure)},
		SecurePort: wirePort{wireNumber(i.Port), wireBool(i.Secure)},
		DataCenter: wireDataCenter{Class: "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", Name: "MyOwn"},
		Lease:      wireLease{Renewal: wireNumber(renewEvery / time.Second), Duration: wireNumber(leaseFor / time.Second)},
		Metadata:   meta, VIP: i.VIP, ASGName: i.Group, Dirty: wireNumber(dirty),
	}
	if w.VIP == "" {
		w.VIP = strings.ToLower(i.App)
	}
	if i.Secure {
		w.SecureVIP, scheme = w.VIP, "https"
	}
	w.HomePageURL = scheme + "://" + i.Addr() + "/"
	if path := meta[HealthPath]; path != "" {
		w.HealthURL = w.HomePageURL + strings.TrimPrefix(path, "/")
	}
	return w
}

// answerError is an answer that is not a success.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string {
	switch e.status {
	case http.StatusNotFound:
		return "the registry does not know it"
	case http.StatusServiceUnavailable:
		return "the registry refused for now, for the change could not be recorded; try again"
	}
	if e.text != "" {
		return fmt.Sprintf("the registry answered %d: %s", e.status, e.text)
	}
	return fmt.Sprintf("the registry answered %d", e.status)
}

func isStatus(err error, status int) bool {
	var ae *answerError
	return errors.As(err, &ae) && ae.status == status
}

// call sends one request to the registry that answered last, and to the others while none answers.
func (c *Client) call(ctx context.Context, method, path string, body any) (int, error) {
	if len(c.bases) == 0 {
		return 0, errors.New("no registry is configured; name one in Config.Registry")
	}
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return 0, fmt.Errorf("encode registration: %w", err)
		}
	}
	at := int(c.at.Load())
	var errs []error
	for i := range c.bases {
		status, err := c.callOne(ctx, c.bases[(at+i)%len(c.bases)], method, path, raw)
		var ae *answerError
		if err == nil || errors.As(err, &ae) && ae.status < 500 {
			return status, err
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return 0, errors.Join(errs...)
}

func (c *Client) callOne(ctx context.Context, b base, method, path string, raw []byte) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	h := http.Header{"Accept": {"application/json"}}
	if raw != nil {
		h.Set("Content-Type", "application/json")
	}
	if st := c.stream.Load(); st != nil && st.at == b.pin && b.pin.Load() == nil {
		h.Set(streamHeader, st.name)
	}
	resp, err := c.send(ctx, b, method, path, raw, h)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return 0, fmt.Errorf("%s %s: the answer broke off: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, &answerError{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return resp.StatusCode, nil
}

// redirects is how often one request is sent elsewhere at most.
const redirects = 5

// send sends one request to b, and to where b redirects it. As Netflix's client does, it stays with that server until
// it fails.
func (c *Client) send(ctx context.Context, b base, method, path string, raw []byte, h http.Header) (*http.Response, error) {
	for range redirects {
		var body io.Reader
		if raw != nil {
			body = bytes.NewReader(raw)
		}
		req, err := http.NewRequestWithContext(ctx, method, b.api()+path, body)
		if err != nil {
			return nil, err
		}
		req.Header = h.Clone()
		req.Header.Set(identityHeader, identity)
		resp, err := c.http.Do(req)
		if err != nil {
			b.pin.Store(nil)
			return nil, err
		}
		switch resp.StatusCode {
		default:
			return resp, nil
		case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		}
		io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) //nolint:errcheck // only to keep the connection
		resp.Body.Close()
		to, err := resp.Location()
		if err != nil {
			return nil, fmt.Errorf("%s redirects to nowhere: %w", b.shown, err)
		}
		plain, _, _ := strings.Cut(path, "?")
		api, ok := strings.CutSuffix(strings.TrimRight(to.EscapedPath(), "/"), strings.TrimRight(plain, "/"))
		if !ok || to.Scheme != "http" && to.Scheme != "https" {
			return nil, fmt.Errorf("%s redirects %s to %s, which is not the same of another registry", b.shown, plain, to.Redacted())
		}
		if to.User == nil && req.URL.User != nil && to.Host == req.URL.Host {
			to.User = req.URL.User
		}
		root := (&url.URL{Scheme: to.Scheme, User: to.User, Host: to.Host}).String() + api
		b.pin.Store(&root)
	}
	b.pin.Store(nil)
	return nil, fmt.Errorf("%s redirects %d times in a row", b.shown, redirects)
}
