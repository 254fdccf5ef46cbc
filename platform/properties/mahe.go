package properties

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

// mahePrefix is where the calls begin that Spinnaker makes to its fast-property service, Mahe. Its orca is told so by
// mahe.baseUrl.
const mahePrefix = "/config/mahe/properties/"

// fastProperty is a record as Spinnaker knows it. It keeps what it was given and sends the whole back to undo a change
// of its own, provided ts is what it was: a property that somebody else changed since it leaves alone.
type fastProperty struct {
	ID    string `json:"propertyId"` // see [maheID]
	Key   string `json:"key"`
	Value string `json:"value"`
	Type  string `json:"type,omitempty"`
	config.Scope
	Constraint  *Constraint `json:"constraint,omitempty"`
	Sensitive   bool        `json:"sensitive,omitempty"`
	Description string      `json:"description,omitempty"`
	Email       string      `json:"email,omitempty"`
	Source      string      `json:"sourceOfUpdate,omitempty"`
	Ticket      string      `json:"cmcTicket,omitempty"`
	UpdatedBy   string      `json:"updatedBy,omitempty"`
	TS          int64       `json:"ts"`
}

// maheID names a record as Spinnaker's tools do: seven fields by their place, which may be empty, then others by name.
// The tools read the env from the third.
//
//	demo_key|api|test|us-west-1||||asg=api-test-v010|cluster=api-test
func maheID(p Property) string {
	id := strings.Join([]string{p.Key, p.App, p.Env, p.Region, p.Instance, p.Stack, p.Countries}, "|")
	for _, f := range []struct{ name, value string }{{"ami", p.AMI}, {"asg", p.Group}, {"cluster", p.Cluster}, {"zone", p.Zone}} {
		if f.value != "" {
			id += "|" + f.name + "=" + f.value
		}
	}
	return id
}

// byMaheID returns the record of that id. A key may hold the separator, so ids are compared and not taken apart.
func (s *Store) byMaheID(id string) (Property, bool) {
	ix := s.index.Load()
	for i, c := range id {
		if c != '|' {
			continue
		}
		for _, r := range ix.keys.get(id[:i]) {
			if r.via == nil && strings.EqualFold(maheID(r.Property), id) {
				return r.Property, true
			}
		}
	}
	return Property{}, false
}

func (s *Store) maheAnswer(w http.ResponseWriter, p Property) {
	p = p.mask()
	api.WriteJSON(w, map[string]fastProperty{"property": {
		ID: maheID(p), Key: p.Key, Value: p.Value, Type: p.Type, Scope: p.Scope, Constraint: p.Constraint, Sensitive: p.Sensitive, Description: p.Description,
		Email: p.Email, Source: p.Source, Ticket: p.Ticket, UpdatedBy: p.UpdatedBy, TS: p.TS,
	}})
}

// postMahe creates or replaces a property: both calls do both, for Spinnaker restores by create what is there.
func (s *Store) postMahe(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2*MaxPacked))
	if err != nil {
		return api.Problem(http.StatusRequestEntityTooLarge, "read the property: %v", err)
	}
	p, err := decodeMahe(body)
	if err != nil {
		return api.Problem(http.StatusBadRequest, "the body is not {\"property\": {...}}: %v", err)
	}
	ctx := maheActor(r.Context(), p.Email, p.Ticket)
	if r.URL.Query().Get("confirm") == "global" {
		ctx = AllowGlobal(ctx)
	}
	out, err := s.Set(ctx, p, Any)
	if err != nil {
		return err
	}
	api.WriteJSON(w, map[string]string{"propertyId": maheID(out)})
	return nil
}

// maheActor names who changes something by the address in the change itself, when the request names nobody.
func maheActor(ctx context.Context, email, ticket string) context.Context {
	by := api.Change(ctx, "", "")
	if by.Actor == "anonymous" && email != "" && len(email) <= 128 {
		by.Actor = email
	}
	if by.Why == "" {
		by.Why = ticket
	}
	return api.As(ctx, by.Actor, by.Why)
}

// decodeMahe reads what a pipeline sends. It holds more than a property, such as the form's appIdList, and values that
// were numbers in somebody's form; only the members that a property has count, and what the store itself gives, as ts,
// does not.
func decodeMahe(body []byte) (Property, error) {
	var in struct {
		Property map[string]json.RawMessage `json:"property"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return Property{}, err
	}
	if in.Property == nil {
		return Property{}, fmt.Errorf("it has no member \"property\"")
	}
	var p Property
	for name, field := range map[string]*string{
		"key": &p.Key, "value": &p.Value, "type": &p.Type, "env": &p.Env, "appId": &p.App, "stack": &p.Stack, "region": &p.Region, "zone": &p.Zone,
		"cluster": &p.Cluster, "asg": &p.Group, "ami": &p.AMI, "serverId": &p.Instance, "countries": &p.Countries,
		"description": &p.Description, "email": &p.Email, "sourceOfUpdate": &p.Source, "cmcTicket": &p.Ticket,
	} {
		text, err := maheText(in.Property[name])
		if err != nil {
			return Property{}, fmt.Errorf("member %q: %w", name, err)
		}
		*field = text
	}
	for name, field := range map[string]any{"constraint": &p.Constraint, "sensitive": &p.Sensitive} {
		if raw := in.Property[name]; raw != nil {
			if err := json.Unmarshal(raw, field); err != nil {
				return Property{}, fmt.Errorf("member %q: %w", name, err)
			}
		}
	}
	return p, nil
}

// maheText reads a member as text: a string, a number, true, false, null for nothing, or a list of texts.
func maheText(raw json.RawMessage) (string, error) {
	var v any
	if len(raw) == 0 {
		return "", nil
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return "", err
	}
	switch v := v.(type) {
	case nil:
		return "", nil
	case []any:
		var texts []string
		for _, item := range v {
			text, ok := item.(string)
			if !ok {
				return "", fmt.Errorf("%s is no list of texts", raw)
			}
			texts = append(texts, text)
		}
		return strings.Join(texts, ","), nil
	case map[string]any:
		return "", fmt.Errorf("%s is no text", raw)
	default:
		return fmt.Sprint(v), nil
	}
}

// findMahe answers with the one property that has a key and exactly a scope. The tool sends everything it knows, which
// is more than that.
func (s *Store) findMahe(w http.ResponseWriter, r *http.Request) error {
	if !s.loaded.Load() {
		return ErrLoading
	}
	key := r.URL.Query().Get("key")
	p, ok := s.current(ID(key, scopeOf(r)))
	if !ok {
		return fmt.Errorf("%w: %s", ErrNotFound, Property{Key: key, Scope: scopeOf(r)}.name())
	}
	s.maheAnswer(w, p)
	return nil
}

// maheTarget returns the property that ?propId= and ?env= name.
func (s *Store) maheTarget(r *http.Request) (Property, error) {
	if !s.loaded.Load() {
		return Property{}, ErrLoading
	}
	id, env := r.URL.Query().Get("propId"), r.URL.Query().Get("env")
	p, ok := s.byMaheID(id)
	if !ok {
		return Property{}, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if env != "" && !strings.EqualFold(env, p.Env) {
		return Property{}, fmt.Errorf("%w: %q is of env %q, not %q", ErrNotFound, id, p.Env, env)
	}
	return p, nil
}

func (s *Store) getMahe(w http.ResponseWriter, r *http.Request) error {
	p, err := s.maheTarget(r)
	if err != nil {
		return err
	}
	s.maheAnswer(w, p)
	return nil
}

// deleteMahe answers 200 without a body: to a body the tool would wait until the property is there.
func (s *Store) deleteMahe(w http.ResponseWriter, r *http.Request) error {
	p, err := s.maheTarget(r)
	if err != nil {
		return err
	}
	return s.Delete(maheActor(r.Context(), "", r.URL.Query().Get("cmcTicket")), p.ID, p.Rev)
}
