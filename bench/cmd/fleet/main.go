//go:build linux

// Command fleet lets simulated instances live with a Eureka server of this machine: they register, renew and poll every
// 30 seconds, some go and come again, and a few clients hold everything and reconcile hashes. It fails if the server
// forgot one of them, told a wrong hash, or gave a wrong answer.
//
//	cd bench && go run ./cmd/fleet -url http://127.0.0.1:8761/eureka -n 100000 -for 1h
package main

import (
	"flag"
	"fmt"
	"log"
	"net/netip"
	"net/url"
	"time"

	"github.com/roadbed/roadbed/bench/fleet"
)

func main() {
	log.SetFlags(log.Ltime)
	f := fleet.Fleet{Told: func(s string) { log.Print(s) }}
	base := flag.String("url", "http://127.0.0.1:8761/eureka", "the server, with the path of its API")
	flag.IntVar(&f.Size, "n", 10_000, "instances")
	flag.DurationVar(&f.For, "for", 5*time.Minute, "how long they live")
	flag.Float64Var(&f.Churn, "churn", 1, "instances a second that go and come again")
	flag.IntVar(&f.Conns, "conns", 64, "connections that carry renewals, and as many for polls")
	flag.BoolVar(&f.Settle, "settle", true, "polls begin when deltas no longer tell of everybody's registration, which takes three minutes and more")
	flag.IntVar(&f.Mirrors, "mirrors", 3, "clients that hold everything and reconcile")
	flag.Parse()
	u, err := url.Parse(*base)
	if err != nil {
		log.Fatal(err)
	}
	if f.Addr, err = netip.ParseAddrPort(u.Host); err != nil {
		log.Fatalf("-url %s: give an address and a port of this machine, as in http://127.0.0.1:8761/eureka: %v", *base, err)
	}
	f.Path = u.Path
	r, err := f.Register()
	if err != nil {
		log.Fatal(err)
	}
	if r.Wrong > 0 {
		log.Fatalf("%d of %d registrations were refused; the first: %v", r.Wrong, f.Size, r.Why)
	}
	log.Printf("%d registered in %v", r.Answers, r.Took.Round(time.Millisecond))
	out, err := f.Run()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out)
	if why := out.Fault(); why != nil {
		log.Fatal(why)
	}
}
