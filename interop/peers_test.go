package interop

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/registry"
)

// twoAndOne are two stock Eureka servers and one of ours that are peers of each other. Ours wants a password.
func twoAndOne(t *testing.T) (stock [2]*spring, ours *server, bases []string) {
	t.Helper()
	addrs := []string{freeAddr(t, "127.0.0.2"), freeAddr(t, "127.0.0.3"), freeAddr(t, "127.0.0.4")}
	for _, a := range []string{addrs[0], addrs[1], "peer:secret@" + addrs[2]} {
		bases = append(bases, baseAt(a))
	}
	for i := range stock {
		stock[i] = newSpring(t, addrs[i], bases, quick...)
	}
	for _, s := range stock {
		s.ready()
	}
	ours = newNode(t, addrs[2], "secret", registry.Settings{
		Peers: map[string][]string{"default": bases}, MyURL: bases[2], LeaseExpiryMultiplier: 2, Preservation: registry.NoPreservation, NoProbe: true,
	})
	for _, b := range bases {
		within(t, time.Minute, b+" knows all three as peers", func() []string { return statuses(b, "EUREKA") }, "UP", "UP", "UP")
	}
	return stock, ours, bases
}

// statuses lists the statuses of an app's instances at a server; the error in words if it does not answer.
func statuses(base, app string) []string {
	list, err := instances(base, app)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, i := range list {
		out = append(out, i.Status)
	}
	slices.Sort(out)
	return out
}

// TestOperationsOnEachNodeAppearOnAll does everything a client or an operator can do at each of three nodes, two of
// them stock Eureka servers, and waits until the other two show it.
func TestOperationsOnEachNodeAppearOnAll(t *testing.T) {
	t.Parallel()
	stock, ours, bases := twoAndOne(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"a stock server", "the other stock server", "ours"}
	everywhere := func(what, app string, want ...string) {
		t.Helper()
		for i, b := range bases {
			within(t, time.Minute, what+": at "+names[i], func() []string {
				list, err := instances(b, app)
				if err != nil {
					return []string{err.Error()}
				}
				return named(list, true)
			}, want...)
		}
	}
	for i, b := range bases {
		next, at := bases[(i+1)%len(bases)], " at "+names[i]
		c := &churner{app: fmt.Sprintf("APP%d", i), id: fmt.Sprintf("app-%d:1", i), status: "STARTING"}
		me := c.app + "/" + c.id + "/"
		must(c.register(ctx, b))
		everywhere("registered"+at, c.app, me+"STARTING/0")
		c.status, c.n = "UP", 1
		must(c.register(ctx, b))
		everywhere("changed"+at, c.app, me+"UP/1")
		must(send(ctx, http.MethodPut, c.path(b)+"/metadata?n=2", "", http.StatusOK))
		everywhere("metadata"+at, c.app, me+"UP/2")
		must(send(ctx, http.MethodPut, c.path(b)+"/status?value=OUT_OF_SERVICE", "", http.StatusOK))
		everywhere("override"+at, c.app, me+"OUT_OF_SERVICE/2")
		c.n = 3
		must(c.register(ctx, next))
		must(send(ctx, http.MethodPut, c.path(next), "", http.StatusOK))
		everywhere("override"+at+" after registering and renewing at the next", c.app, me+"OUT_OF_SERVICE/3")
		must(send(ctx, http.MethodDelete, c.path(b)+"/status?value=UP", "", http.StatusOK))
		everywhere("override deleted"+at, c.app, me+"UP/3")
		must(send(ctx, http.MethodPut, c.path(next)+"/status?value=DOWN", "", http.StatusOK))
		everywhere("override at the node next to that"+at, c.app, me+"DOWN/3")
		must(send(ctx, http.MethodDelete, c.path(b), "", http.StatusOK))
		everywhere("cancelled"+at, c.app)
	}

	// Three instances whose leases last five seconds, each renewed at one node alone.
	var short []*churner
	for i, b := range bases {
		c := &churner{app: "SHORT", id: fmt.Sprintf("short-%d", i), status: "UP", lease: 5}
		short = append(short, c)
		must(c.register(ctx, b))
	}
	all := []string{"SHORT/short-0/UP/0", "SHORT/short-1/UP/0", "SHORT/short-2/UP/0"}
	everywhere("short leases", "SHORT", all...)
	for began := time.Now(); time.Since(began) < 12*time.Second; time.Sleep(time.Second) {
		for i, b := range bases {
			must(send(ctx, http.MethodPut, short[i].path(b), "", http.StatusOK))
		}
		for i, b := range bases {
			if list, err := instances(b, "SHORT"); err != nil || !slices.Equal(named(list, true), all) {
				t.Fatalf("%v into renewals, %s has %q, %v; want %q", time.Since(began), names[i], named(list, true), err, all)
			}
		}
	}
	for i, b := range bases {
		within(t, time.Minute, "leases that nobody renews end at "+names[i], func() []string { return statuses(b, "SHORT") })
	}

	// One stock server stands still while the others change, and another starts anew with nothing.
	kept := &churner{app: "KEPT", id: "kept", status: "UP"}
	lost := &churner{app: "LOST", id: "lost", status: "UP"}
	must(kept.register(ctx, bases[2]))
	must(lost.register(ctx, bases[2]))
	everywhere("before the stop", "LOST", "LOST/lost/UP/0")
	everywhere("before the stop", "KEPT", "KEPT/kept/UP/0")
	stock[0].cmd.Process.Signal(syscall.SIGSTOP) //nolint:errcheck // what follows tells
	must(send(ctx, http.MethodDelete, lost.path(bases[2]), "", http.StatusOK))
	must(send(ctx, http.MethodPut, kept.path(bases[2])+"/status?value=OUT_OF_SERVICE", "", http.StatusOK))
	late := &churner{app: "LATE", id: "late", status: "UP"}
	must(late.register(ctx, bases[2]))
	time.Sleep(3 * time.Second)                  // longer than any attempt to reach it lasts
	stock[0].cmd.Process.Signal(syscall.SIGCONT) //nolint:errcheck // what follows tells
	everywhere("after one stood still", "LOST")
	everywhere("after one stood still", "LATE", "LATE/late/UP/0")
	everywhere("after one stood still", "KEPT", "KEPT/kept/OUT_OF_SERVICE/0")
	stock[1].kill()
	stock[1].launch()
	stock[1].ready()
	must(send(ctx, http.MethodPut, kept.path(bases[2]), "", http.StatusOK)) // it copied those that are UP, as its client reads no others
	everywhere("after one started anew", "KEPT", "KEPT/kept/OUT_OF_SERVICE/0")
	everywhere("after one started anew", "LATE", "LATE/late/UP/0")

	resp, err := http.Get(strings.TrimSuffix(bases[0], "eureka/"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := readAll(resp)
	if err != nil || !strings.Contains(page, ours.addr) {
		t.Errorf("the page of a stock server does not show ours among its replicas: %v\n%s", err, page)
	}
}
