// Package gatewayapi runs the Kubernetes Gateway API's own conformance tests, as they are, against the edge. There is no
// cluster: an API server in memory takes what the tests apply, and what stands in for a controller hands it to the edge as
// routes, and writes back what the edge makes of it. Backends are the tests' own, too.
//
// It is a module of its own for what it depends on, which takes longer to build than all else.
package gatewayapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/apis/v1alpha3"
	"sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/grpc"
	"sigs.k8s.io/gateway-api/conformance/utils/roundtripper"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

const (
	class      = "roadbed"
	controller = gatewayv1.GatewayController("roadbed.example/edge")
)

// backends are the tests' own, by namespace.
var backends = map[string][]string{
	"gateway-conformance-infra":       {"infra-backend-v1", "infra-backend-v2", "infra-backend-v3", "grpc-infra-backend-v1", "grpc-infra-backend-v2", "grpc-infra-backend-v3"},
	"gateway-conformance-app-backend": {"app-backend-v1", "app-backend-v2"},
	"gateway-conformance-web-backend": {"web-backend"},
}

// road is a platform, and the API server that stands in front of it.
type road struct {
	t      *testing.T
	offset int
	kube   client.Client
	sent   map[string]string  // documents of routes by their properties
	logs   map[string]*logged // of pods, by namespace/name
}

// logged is what a process says.
type logged struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

// Write adds to it.
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

// String returns all of it.
func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// pods returns a client of an API server that knows what pods have logged, and nothing else.
func (r *road) pods() *kubernetes.Clientset {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}/log", func(w http.ResponseWriter, q *http.Request) {
		if l := r.logs[q.PathValue("namespace")+"/"+q.PathValue("name")]; l != nil {
			io.WriteString(w, l.String()) //nolint:errcheck // who asks has gone
		} else {
			http.NotFound(w, q)
		}
	})
	server := httptest.NewServer(mux)
	r.t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		r.t.Fatal(err)
	}
	return client
}

func (r *road) at(port int) string { return fmt.Sprintf("127.0.0.1:%d", port+r.offset) }

// newRoad starts the platform and all backends.
func newRoad(t *testing.T) *road {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, gatewayv1.Install, v1beta1.Install, v1alpha2.Install, v1alpha3.Install} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	r := &road{t: t, sent: make(map[string]string), logs: make(map[string]*logged)}
	for free := false; !free; {
		r.offset = 100 + rand.IntN(10_000)
		free = take(7000+r.offset, 7070+r.offset, 7100+r.offset, 7101+r.offset, 7443+r.offset, 8761+r.offset)
	}
	r.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&gatewayv1.Gateway{}, &gatewayv1.HTTPRoute{}, &gatewayv1.GRPCRoute{}).WithObjects(&gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: class}, Spec: gatewayv1.GatewayClassSpec{ControllerName: controller},
		Status: gatewayv1.GatewayClassStatus{Conditions: []metav1.Condition{{Type: "Accepted", Status: "True", Reason: "Accepted"}}},
	}).Build()
	dir := t.TempDir()
	for name, of := range map[string][2]string{"roadbed": {"../..", "./cmd/roadbed"}, "echo": {".", "sigs.k8s.io/gateway-api/conformance/echo-basic"}} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), of[1])
		build.Dir = of[0]
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
	}
	r.start(exec.Command(filepath.Join(dir, "roadbed"), "up", "--data", filepath.Join(dir, "state"), "--port-offset", fmt.Sprint(r.offset), "--edge-tls-port", "7443"), r.at(7000))
	for namespace, names := range backends {
		for _, name := range names {
			port, pod := freePort(t), name+"-0-0"
			cmd := exec.Command(filepath.Join(dir, "echo"))
			cmd.Env = []string{"POD_NAME=" + pod, "NAMESPACE=" + namespace, "SERVICE_NAME=" + name, "HTTP_PORT=" + port, "H2C_PORT=" + freePort(t), "HTTPS_PORT=" + freePort(t)}
			protocol := "http1"
			if strings.HasPrefix(name, "grpc-") {
				cmd.Env, protocol = append(cmd.Env, "GRPC_ECHO_SERVER=1"), "h2c"
			}
			r.logs[namespace+"/"+pod] = r.start(cmd, "127.0.0.1:"+port)
			if err := r.kube.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: namespace, Labels: map[string]string{"app": name}}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "Ready", Status: "True"}}}}); err != nil {
				t.Fatal(err)
			}
			body := fmt.Sprintf(`{"instance":{"instanceId":%[1]q,"hostName":"127.0.0.1","app":%[1]q,"ipAddr":"127.0.0.1","status":"UP","port":{"$":%[2]s,"@enabled":"true"},`+
				`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"leaseInfo":{"durationInSecs":3600},"vipAddress":%[1]q}}`, name, port)
			r.ask(http.MethodPost, "http://"+r.at(8761)+"/eureka/apps/"+name, body, nil)
			r.set("edge.origin."+name+".protocol", protocol)
			r.set("ipc.command."+name+".retryBudget.perSecond", "1000") // most of what the tests ask is to be tried again
		}
	}
	r.set("edge.priority.tests", "* / 1") // not refused, however busy this machine is
	return r
}

// start runs a program until the test ends, be it by SIGKILL, and returns what it says once addr takes connections.
func (r *road) start(cmd *exec.Cmd, addr string) *logged {
	r.t.Helper()
	said := &logged{}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }() //nolint:errcheck // what it said tells more
	guard := exec.Command("sh", "-c", `read _; kill -9 "-$0"`, fmt.Sprint(cmd.Process.Pid))
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := guard.StdinPipe() // the system closes it when the test is gone
	if err == nil {
		err = guard.Start()
	}
	r.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		<-ended
		if guard.Process != nil {
			guard.Process.Kill() //nolint:errcheck // it may have ended
			guard.Wait()         //nolint:errcheck // it was killed
			in.Close()
		}
		if r.t.Failed() {
			r.t.Logf("%s said:\n%.3000s", cmd.Path, said.String())
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			r.t.Fatalf("%s ended", cmd.Path)
		default:
		}
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return said
		}
		if time.Since(began) > time.Minute {
			r.t.Fatalf("%s does not listen on %s after a minute", cmd.Path, addr)
		}
	}
}

// taken are the ports that were given to somebody, who listens there a moment later.
var taken = make(map[int]bool)

// take reports whether ports were free, and takes them.
func take(ports ...int) bool {
	for _, p := range ports {
		if taken[p] {
			return false
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return false
		}
		l.Close()
	}
	for _, p := range ports {
		taken[p] = true
	}
	return true
}

// freePort finds a port that is free, and stays so: the kernel gives those above 32767 to clients.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		if p := 31_000 + rand.IntN(1700); take(p) {
			return fmt.Sprint(p)
		}
	}
	t.Fatal("no free port found in 1000 tries")
	return ""
}

// ask sends a request to the platform and reads its answer into out, unless that is nil.
func (r *road) ask(method, url, body string, out any) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		r.t.Errorf("%s %s: %s %v: %.500s", method, url, resp.Status, err, said)
	} else if out != nil {
		if err := json.Unmarshal(said, out); err != nil {
			r.t.Errorf("%s %s: %v", method, url, err)
		}
	}
}

func (r *road) set(key, value string) {
	text, _ := json.Marshal(map[string]string{"key": key, "value": value}) // strings always are JSON
	r.ask(http.MethodPost, "http://"+r.at(8761)+"/config/v1/properties", string(text), nil)
}

// object is what the edge makes of one of the API's.
type object struct {
	Kind, Namespace, Name string
	Conditions            []metav1.Condition
}

// control does a controller's work until ctx ends.
func (r *road) control(ctx context.Context) {
	for ctx.Err() == nil {
		r.hand(ctx)
		var edge struct{ Objects []object }
		r.ask(http.MethodGet, "http://"+r.at(7070)+"/api/v1/edge/routes", "", &edge)
		r.tell(ctx, edge.Objects)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// hand gives the edge all that there is, as documents of routes, one property for each object.
func (r *road) hand(ctx context.Context) {
	docs := make(map[string]string)
	for kind, list := range map[string]client.ObjectList{"Namespace": &corev1.NamespaceList{}, "Gateway": &gatewayv1.GatewayList{}, "HTTPRoute": &gatewayv1.HTTPRouteList{}, "GRPCRoute": &gatewayv1.GRPCRouteList{}, "ReferenceGrant": &gatewayv1.ReferenceGrantList{}} {
		if err := r.kube.List(ctx, list); err != nil {
			r.t.Errorf("listing %s: %v", kind, err)
			continue
		}
		text, err := json.Marshal(list)
		if err != nil {
			r.t.Error(err)
			continue
		}
		var all struct{ Items []map[string]any }
		if err := json.Unmarshal(text, &all); err != nil {
			r.t.Error(err)
			continue
		}
		for _, o := range all.Items {
			delete(o, "status")
			o["kind"], o["apiVersion"] = kind, "gateway.networking.k8s.io/v1"
			if kind == "Namespace" {
				o["apiVersion"] = "v1"
			}
			meta, _ := o["metadata"].(map[string]any)
			delete(meta, "resourceVersion")
			doc, err := yaml.Marshal(o)
			if err != nil {
				r.t.Error(err)
				continue
			}
			docs[strings.ToLower(fmt.Sprintf("edge.routes.%s.%v.%v", kind, meta["namespace"], meta["name"]))] = string(doc)
		}
	}
	for key, doc := range docs {
		if r.sent[key] != doc {
			r.set(key, doc)
			r.sent[key] = doc
		}
	}
	for key := range r.sent {
		if docs[key] == "" {
			r.set(key, "[]")
			delete(r.sent, key)
		}
	}
}

// tell writes what the edge says of objects into their status.
func (r *road) tell(ctx context.Context, objects []object) {
	of := func(kind, namespace, name string) []metav1.Condition {
		i := slices.IndexFunc(objects, func(o object) bool { return o.Kind == kind && o.Namespace == namespace && o.Name == name })
		if i < 0 {
			return nil
		}
		var all []metav1.Condition
		for _, c := range objects[i].Conditions {
			c.LastTransitionTime = metav1.Unix(1, 0)
			all = append(all, c)
		}
		return all
	}
	attached := make(map[string][][]gatewayv1.Hostname) // hostnames of the routes, by namespace/gateway/listener
	routes := func(kind, namespace, name string, refs []gatewayv1.ParentReference, hosts []gatewayv1.Hostname, generation int64) (s gatewayv1.RouteStatus) {
		s.Parents = []gatewayv1.RouteParentStatus{}
		for _, ref := range refs {
			conditions := of(kind, namespace, name)
			if conditions == nil {
				continue
			}
			for i := range conditions {
				conditions[i].ObservedGeneration = generation
			}
			ref.Group, ref.Kind = ptr.To(ptr.Deref(ref.Group, gatewayv1.GroupName)), ptr.To(ptr.Deref(ref.Kind, "Gateway")) // as the API server does
			s.Parents = append(s.Parents, gatewayv1.RouteParentStatus{ParentRef: ref, ControllerName: controller, Conditions: conditions})
			if slices.ContainsFunc(conditions, func(c metav1.Condition) bool { return c.Type == "Accepted" && c.Status == "True" }) {
				key := fmt.Sprintf("%s/%s/%s", ptr.Deref(ref.Namespace, gatewayv1.Namespace(namespace)), ref.Name, ptr.Deref(ref.SectionName, ""))
				attached[key] = append(attached[key], hosts)
			}
		}
		return s
	}
	write := func(o client.Object, before, after any) {
		was, _ := json.Marshal(before)
		is, _ := json.Marshal(after)
		if string(was) != string(is) {
			r.kube.Status().Update(ctx, o) //nolint:errcheck // it is gone, or another round writes it
		}
	}
	var hs gatewayv1.HTTPRouteList
	if r.kube.List(ctx, &hs) == nil {
		for _, o := range hs.Items {
			before := o.Status
			o.Status.RouteStatus = routes("HTTPRoute", o.Namespace, o.Name, o.Spec.ParentRefs, o.Spec.Hostnames, o.Generation)
			write(&o, before, o.Status)
		}
	}
	var rs gatewayv1.GRPCRouteList
	if r.kube.List(ctx, &rs) == nil {
		for _, o := range rs.Items {
			before := o.Status
			o.Status.RouteStatus = routes("GRPCRoute", o.Namespace, o.Name, o.Spec.ParentRefs, o.Spec.Hostnames, o.Generation)
			write(&o, before, o.Status)
		}
	}
	var gs gatewayv1.GatewayList
	if r.kube.List(ctx, &gs) != nil {
		return
	}
	for _, o := range gs.Items {
		before := *o.Status.DeepCopy()
		conditions := of("Gateway", o.Namespace, o.Name)
		if conditions == nil || o.Spec.GatewayClassName != class {
			continue
		}
		for i := range conditions {
			conditions[i].ObservedGeneration = o.Generation
		}
		o.Status.Conditions = conditions
		o.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Type: ptr.To(gatewayv1.IPAddressType), Value: "127.0.0.1"}}
		o.Status.Listeners = nil
		for _, l := range o.Spec.Listeners {
			s := gatewayv1.ListenerStatus{Name: l.Name, SupportedKinds: []gatewayv1.RouteGroupKind{}}
			for _, hosts := range append(slices.Clone(attached[o.Namespace+"/"+o.Name+"/"]), attached[o.Namespace+"/"+o.Name+"/"+string(l.Name)]...) {
				if len(hosts) == 0 || l.Hostname == nil || slices.ContainsFunc(hosts, func(h gatewayv1.Hostname) bool { return meet(string(h), string(*l.Hostname)) }) {
					s.AttachedRoutes++
				}
			}
			for _, kind := range []gatewayv1.Kind{"HTTPRoute", "GRPCRoute"} {
				s.SupportedKinds = append(s.SupportedKinds, gatewayv1.RouteGroupKind{Group: ptr.To(gatewayv1.Group(gatewayv1.GroupName)), Kind: kind})
			}
			for _, kind := range []string{"Accepted", "Programmed", "ResolvedRefs"} {
				s.Conditions = append(s.Conditions, metav1.Condition{Type: kind, Status: "True", Reason: kind, ObservedGeneration: o.Generation, LastTransitionTime: metav1.Unix(1, 0)})
			}
			o.Status.Listeners = append(o.Status.Listeners, s)
		}
		write(&o, before, o.Status)
	}
}

// meet reports whether a host can be of both names.
func meet(a, b string) bool {
	if rest, wild := strings.CutPrefix(a, "*"); wild {
		return strings.HasSuffix(b, rest)
	}
	rest, wild := strings.CutPrefix(b, "*")
	return a == b || wild && strings.HasSuffix(a, rest)
}

// through is where the edge listens for what a Gateway's port is.
func (r *road) through(addr string) string {
	if _, port, _ := net.SplitHostPort(addr); port == "443" || port == "8443" {
		return r.at(7443)
	}
	return r.at(7000)
}

// calls is the tests' gRPC client, on a connection of its own each time, which comes to the edge wherever it goes.
type calls struct{ r *road }

func (c calls) SendRPC(t *testing.T, address string, expected grpc.ExpectedResponse, timeout time.Duration) (*grpc.Response, error) {
	var client grpc.DefaultClient
	defer client.Close()
	return client.SendRPC(t, c.r.through(address), expected, timeout)
}

func (calls) Close() {}

// apart are cases that are not run, and why.
var apart = map[string]string{
	"HTTPRouteBackendProtocolH2C":           "h2c is said by a Service's port; here by the property edge.origin.APP.protocol",
	"HTTPRouteBackendProtocolWebSocket":     "the WebSocket server is another port of a Service; here a Service is an app, whatever its port",
	"HTTPRouteCORS":                         "origin * with credentials is refused: it would let every page act as the user",
	"HTTPRouteHTTPSListener":                "certificates come from --edge-certs and by ACME, not from Secrets",
	"HTTPRouteInvalidNonExistentBackendRef": "a Service is an app, which may be registered any time; until then it is answered 502",
	"HTTPRouteListenerPortMatching":         "all listeners are at the edge's ports, whatever theirs are",
	"HTTPRouteMultipleGateways":             "all Gateways are one edge",
	"HTTPRouteObservedGenerationBump":       "generations are an API server's",
	"HTTPRouteServiceTypes":                 "endpoints are what is registered",
	"HTTPRouteRequestPercentageMirror":      "what comes out by chance may come out otherwise",
}

func TestGatewayAPIConformance(t *testing.T) {
	r := newRoad(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); r.control(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })

	limits := config.DefaultTimeoutConfig()
	limits.MaxTimeToConsistency, limits.RequestTimeout, limits.TestIsolation = time.Minute, 30*time.Second, 0
	for _, l := range []*time.Duration{&limits.GatewayMustHaveAddress, &limits.GatewayMustHaveCondition, &limits.HTTPRouteMustHaveCondition, &limits.HTTPRouteMustNotHaveParents, &limits.RouteMustHaveParents, &limits.GatewayListenersMustHaveConditions, &limits.GatewayStatusMustHaveListeners} {
		*l = time.Minute
	}
	s := &suite.ConformanceTestSuite{
		Client: r.kube, Clientset: r.pods(), GatewayClassName: class, ControllerName: string(controller), CleanupTestResources: true, DisableParallelTests: true, TimeoutConfig: limits, ManifestFS: []fs.FS{&conformance.Manifests}, BaseManifests: "base/manifests.yaml",
		SupportedFeatures: suite.FeaturesSet{},
		RoundTripper: &roundtripper.DefaultRoundTripper{TimeoutConfig: limits, CustomDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.through(addr))
		}},
		GRPCClient: calls{r},
	}
	for _, all := range []features.FeatureName{features.SupportGateway, features.SupportHTTPRoute, features.SupportGRPCRoute, features.SupportReferenceGrant} {
		s.SupportedFeatures.Insert(all)
	}
	for f := range features.HTTPRouteExtendedFeatures {
		s.SupportedFeatures.Insert(f.Name)
	}
	s.Setup(t, tests.ConformanceTests)
	ran := 0
	for _, test := range tests.ConformanceTests {
		if !strings.HasPrefix(test.ShortName, "HTTPRoute") && !strings.HasPrefix(test.ShortName, "GRPCRoute") || !s.SupportedFeatures.HasAll(test.Features...) {
			continue
		}
		if why := apart[test.ShortName]; why != "" {
			continue
		}
		ran++
		t.Run(test.ShortName, func(t *testing.T) { test.Run(t, s) })
	}
	if ran < 44 {
		t.Errorf("%d cases were run, want 44", ran)
	}
	t.Logf("%d cases were run, and %d were not", ran, len(apart))
}
