package console

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"testing"

	"go.uber.org/goleak"
)

// serve shows the console on made-up rooms, for whoever works on its pages:
//
//	go test ./platform/console -serve 127.0.0.1:7171
//	curl -d 'path=/api/v1/traffic&down=1' http://127.0.0.1:7171/fixture/fail
var serve = flag.String("serve", "", "serve the console with made-up rooms at this address until interrupted, instead of testing")

func TestMain(m *testing.M) {
	flag.Parse()
	if *serve == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := serveFixture(*serve); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveFixture(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("console on made-up rooms: http://%s\n", l.Addr())
	c := New(Config{API: "http://" + l.Addr().String()})
	mux := http.NewServeMux()
	mux.Handle("/", c.Handler())
	rooms := newFixture()
	mux.Handle("/api/v1/", rooms)
	mux.Handle("/config/v1/", rooms)
	mux.HandleFunc("POST /fixture/fail", func(w http.ResponseWriter, r *http.Request) {
		rooms.fail(r.FormValue("path"), r.FormValue("down") != "")
	})
	mux.Handle("/api/v1/overview/stream", c.Handler())
	srv := &http.Server{Handler: mux}
	go func() {
		c.Run(ctx)
		srv.Close()
	}()
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
