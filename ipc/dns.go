package ipc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
)

// DNS is [Lists] from the domain name system, for callees that no registry knows. It asks again every so often, since
// Go does not tell how long an answer holds.
//
// A lookup that fails leaves the list as it is. An answer that there is nobody empties it only when the next one says
// so as well.
type DNS struct {
	// Names are where apps are found: "host:port" (80 if there is no port), whose every A and AAAA record is an
	// instance, or the name of SRV records such as "_http._tcp.example.com", of which those of the least priority are
	// used by their weights. Apps without a name are left to Next.
	Names map[string]string

	Next     Lists         // nil: nobody knows the others
	Every    time.Duration // 30 s
	Resolver *net.Resolver // nil: net.DefaultResolver
	Log      *slog.Logger  // nil: slog.Default()
}

const (
	dnsEvery   = 30 * time.Second
	dnsTimeout = 5 * time.Second
)

// Watch asks once before it returns, for 5 s at most, and from then on until stop is called.
func (d *DNS) Watch(app string, fn func([]roadbed.Instance)) (stop func()) {
	name, ok := d.Names[app]
	if !ok {
		if d.Next != nil {
			return d.Next.Watch(app, fn)
		}
		fn(nil)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := dnsWatch{dns: d, app: app, name: name, fn: fn}
	if !w.look(ctx) {
		fn(nil)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		every := d.Every
		if every <= 0 {
			every = dnsEvery
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.look(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// dnsWatch is one call of Watch.
type dnsWatch struct {
	dns   *DNS
	app   string
	name  string
	fn    func([]roadbed.Instance)
	known []roadbed.Instance
	empty bool   // the last answer was
	told  string // the last error that was logged
}

// look asks once and tells fn if the list is another one.
func (w *dnsWatch) look(ctx context.Context) (told bool) {
	within, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	list, err := w.dns.lookup(within, w.app, w.name)
	var dns *net.DNSError
	gone := err == nil && len(list) == 0 || errors.As(err, &dns) && dns.IsNotFound
	switch {
	case ctx.Err() != nil:
		return false
	case gone:
		if !w.empty || len(w.known) == 0 {
			w.empty = true
			return false
		}
	case err != nil:
		if w.told != err.Error() {
			w.told = err.Error()
			log := w.dns.Log
			if log == nil {
				log = slog.Default()
			}
			log.Warn("instances are not found by name; those known before stay", "app", w.app, "name", w.name, "err", err)
		}
		return false
	}
	w.empty, w.told = gone, ""
	if slices.EqualFunc(list, w.known, func(a, b roadbed.Instance) bool { return a.ID == b.ID && a.Metadata["weight"] == b.Metadata["weight"] }) {
		return false
	}
	w.known = list
	w.fn(list)
	return true
}

// lookup returns the instances that a name stands for, in order.
func (d *DNS) lookup(ctx context.Context, app, name string) (out []roadbed.Instance, err error) {
	r := d.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	add := func(host string, port int, weight string) {
		i := roadbed.Instance{App: app, Host: host, Port: port, Status: roadbed.Up}
		i.ID = i.Addr()
		if weight != "" {
			i.Metadata = map[string]string{"weight": weight}
		}
		out = append(out, i)
	}
	if strings.HasPrefix(name, "_") {
		_, records, err := r.LookupSRV(ctx, "", "", name)
		if err != nil {
			return nil, err
		}
		records = slices.DeleteFunc(records, func(s *net.SRV) bool { return s.Target == "." || s.Port == 0 }) // RFC 2782: no service here
		least, heaviest, same := uint16(65535), uint16(1), true
		for _, s := range records {
			least = min(least, s.Priority)
		}
		records = slices.DeleteFunc(records, func(s *net.SRV) bool { return s.Priority != least })
		for _, s := range records {
			heaviest = max(heaviest, s.Weight)
			same = same && s.Weight == records[0].Weight
		}
		for _, s := range records {
			weight := ""
			if !same {
				weight = strconv.FormatFloat(max(0.01, float64(s.Weight)/float64(heaviest)), 'g', 3, 64)
			}
			add(strings.TrimSuffix(s.Target, "."), int(s.Port), weight)
		}
	} else {
		host, text, err := net.SplitHostPort(name)
		port := 80
		if err != nil {
			host = strings.Trim(name, "[]")
		} else if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
			return nil, fmt.Errorf("%q names no port from 1 to 65535", name)
		}
		addrs, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			add(a.Unmap().String(), port, "")
		}
	}
	slices.SortFunc(out, func(a, b roadbed.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(out, func(a, b roadbed.Instance) bool { return a.ID == b.ID }), nil
}
