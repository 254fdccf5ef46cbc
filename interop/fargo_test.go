package interop

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hudl/fargo"
	"github.com/op/go-logging"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/registry"
)

// quietFargo keeps fargo from logging.
func quietFargo() {
	for _, module := range []string{"fargo", "fargo.metadata", "fargo.marshal"} {
		logging.SetLevel(logging.CRITICAL, module)
	}
}

// TestFargoSeesTwoNodesAsOneCluster goes through what fargo tests itself against two Eureka servers.
func TestFargoSeesTwoNodesAsOneCluster(t *testing.T) {
	quietFargo()
	addrs := []string{freeAddr(t, "127.0.0.1"), freeAddr(t, "127.0.0.2")}
	bases := []string{baseAt(addrs[0]), baseAt(addrs[1])}
	for i, a := range addrs {
		newNode(t, a, "", registry.Settings{Peers: map[string][]string{"default": bases}, MyURL: bases[i]})
	}
	for _, useJSON := range []bool{false, true} {
		t.Run(map[bool]string{false: "XML", true: "JSON"}[useJSON], func(t *testing.T) {
			conn := func(addrs ...string) fargo.EurekaConnection {
				var urls []string
				for _, a := range addrs {
					urls = append(urls, "http://"+a+"/eureka/v2")
				}
				c := fargo.NewConn(urls...)
				c.UseJson = useJSON
				return c
			}
			both, first, second := conn(addrs...), conn(addrs[0]), conn(addrs[1])
			app := func(c *fargo.EurekaConnection, name string) func() []string {
				return func() []string {
					a, err := c.GetApp(name)
					if err != nil {
						return []string{err.Error()}
					}
					var out []string
					for _, i := range a.Instances {
						note, _ := i.Metadata.GetString("note") //nolint:errcheck // most have none
						out = append(out, string(i.Status)+note)
					}
					return out
				}
			}
			for what, c := range map[string]*fargo.EurekaConnection{"both": &both, "the first": &first, "the second": &second} {
				eventually(t, "EUREKA read at "+what, app(c, "EUREKA"), "UP", "UP")
				if apps, err := c.GetApps(); err != nil || apps["EUREKA"] == nil || len(apps["EUREKA"].Instances) != 2 {
					t.Errorf("all apps at %s: got %v, %v; want EUREKA with two instances", what, apps, err)
				}
			}
			for vip, want := range map[string]int{"eureka": 2, "nobody": 0} {
				for _, secure := range []bool{false, true} {
					got, err := both.GetInstancesByVIPAddress(vip, secure, fargo.ThatAreUp)
					if err != nil || len(got) != want {
						t.Errorf("by VIP %s, secure %v: got %d, %v; want %d", vip, secure, len(got), err, want)
					}
				}
			}
			i := &fargo.Instance{
				HostName: "i-1", App: "TESTAPP", IPAddr: "127.0.0.10", VipAddress: "127.0.0.10", Port: 9090, PortEnabled: true, Status: fargo.STARTING,
				Overriddenstatus: fargo.UNKNOWN, DataCenterInfo: fargo.DataCenterInfo{Name: fargo.MyOwn}, UniqueID: func(i fargo.Instance) string { return i.HostName },
			}
			if err := first.HeartBeatInstance(i); err == nil {
				t.Error("heartbeat of an unknown instance: got no error")
			}
			must := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			must("register at the first", first.RegisterInstance(i))
			eventually(t, "registered at the first, read at the second", app(&second, "TESTAPP"), "STARTING")
			must("heartbeat at the second", second.HeartBeatInstance(i))
			must("status at the second", second.UpdateInstanceStatus(i, fargo.OUTOFSERVICE))
			eventually(t, "status set at the second, read at the first", app(&first, "TESTAPP"), "OUT_OF_SERVICE")
			must("metadata at the first", first.AddMetadataString(i, "note", ":x"))
			eventually(t, "metadata set at the first, read at the second", app(&second, "TESTAPP"), "OUT_OF_SERVICE:x")
			must("deregister at the second", second.DeregisterInstance(i))
			eventually(t, "gone from the first", func() []string {
				_, err := first.GetApp("TESTAPP")
				return []string{fmt.Sprintf("%T", err)}
			}, "fargo.AppNotFoundError")
		})
	}
}

func TestFargoGoesThroughItsFullCycle(t *testing.T) {
	quietFargo()
	for _, tt := range []struct {
		name, path string
		json       bool
	}{{"XML", "/eureka/v2", false}, {"JSON", "/eureka/v2", true}, {"XML at the path of Spring", "/eureka", false}, {"JSON at the path of Spring", "/eureka", true}} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			conn := fargo.NewConn("http://" + s.addr + tt.path)
			conn.UseJson = tt.json
			conn.PollInterval = 50 * time.Millisecond
			instance := func() *fargo.Instance {
				i := &fargo.Instance{
					InstanceId: "127.0.0.1:fg:8080", HostName: "localhost", App: "FG", IPAddr: "127.0.0.1", VipAddress: "fg.test", Port: 8080, PortEnabled: true,
					Status: fargo.UP, Overriddenstatus: fargo.UNKNOWN, DataCenterInfo: fargo.DataCenterInfo{Name: fargo.MyOwn},
					LeaseInfo: fargo.LeaseInfo{DurationInSecs: 90, RenewalIntervalInSecs: 30},
				}
				i.SetMetadataString("owner", "ana") // no number: in XML fargo would take it for one
				return i
			}
			ins := instance()
			must := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			must("register", conn.RegisterInstance(ins))
			known := s.reg.Instances("fg")
			if len(known) != 1 || known[0].Port != 8080 || known[0].Status != roadbed.Up || known[0].VIP != "fg.test" || known[0].Metadata["owner"] != "ana" {
				t.Fatalf("registered: got %+v, want one UP instance at port 8080 with VIP fg.test and owner ana", known)
			}
			must("heartbeat", conn.HeartBeatInstance(ins))

			read := func() []string {
				apps, err := conn.GetApps()
				must("read all apps", err)
				var out []string
				for name, a := range apps {
					for _, i := range a.Instances {
						owner, err := i.Metadata.GetString("owner")
						must("read the metadata", err)
						out = append(out, name+"/"+i.InstanceId+"/"+string(i.Status)+"/"+owner)
					}
				}
				slices.Sort(out)
				return out
			}
			eventually(t, "it reads itself among all apps", read, "FG/127.0.0.1:fg:8080/UP/ana")
			by, err := conn.GetInstancesByVIPAddress("fg.test", false)
			must("read by VIP", err)
			if len(by) != 1 || by[0].Port != 8080 || !by[0].PortEnabled {
				t.Errorf("by VIP: got %+v, want one instance at port 8080", by)
			}
			source := conn.NewAppSource("FG", true)
			defer source.Stop()
			must("add metadata", conn.AddMetadataString(ins, "shard", "blue"))
			must("go out of service", conn.UpdateInstanceStatus(ins, fargo.OUTOFSERVICE))
			eventually(t, "who follows the app sees it out of service, in its shard", func() []string {
				var out []string
				if app := source.Latest(); app != nil {
					for _, i := range app.Instances {
						shard, _ := i.Metadata.GetString("shard") //nolint:errcheck // none is what we wait to end
						out = append(out, string(i.Status)+" "+shard)
					}
				}
				return out
			}, "OUT_OF_SERVICE blue")

			s.stop()
			s.start() // it has lost its memory
			if err := conn.HeartBeatInstance(ins); err == nil {
				t.Error("heartbeat after the registry's restart: got no error, want that it is not known")
			}
			ins = instance()
			must("register again", conn.ReregisterInstance(ins))
			eventually(t, "it reads itself again", read, "FG/127.0.0.1:fg:8080/UP/ana")
			must("deregister", conn.DeregisterInstance(ins))
			eventually(t, "it is gone", func() []string { return s.held("") })
			_, err = conn.GetInstance("FG", ins.InstanceId)
			if code, ok := fargo.HTTPResponseStatusCode(err); !ok || code != 404 {
				t.Errorf("reading what is gone: got %v, want status 404", err)
			}
		})
	}
}
