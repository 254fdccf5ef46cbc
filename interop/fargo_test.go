package interop

import (
	"slices"
	"testing"
	"time"

	"github.com/hudl/fargo"
	"github.com/op/go-logging"

	"github.com/roadbed/roadbed"
)

func TestFargoGoesThroughItsFullCycle(t *testing.T) {
	logging.SetLevel(logging.CRITICAL, "fargo")
	logging.SetLevel(logging.CRITICAL, "fargo.metadata")
	logging.SetLevel(logging.CRITICAL, "fargo.marshal")
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
