package service_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/service"
)

// A whole service. In a main the context is context.Background, and Wait returns after SIGTERM.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s", r.URL.Path) })
	s, err := service.Start(ctx, service.Config{Name: "hello", Handler: hello, Log: quiet})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(fetch("http://" + s.Addr() + "/road"))
	stop()
	fmt.Println("ended:", s.Wait())
	// Output:
	// hello from /road
	// ended: <nil>
}

// A service that calls another, and makes do when it does not answer.
func ExampleConfig_build() {
	ctx, stop := context.WithCancel(context.Background())
	s, err := service.Start(ctx, service.Config{Name: "shop", Log: quiet, Build: func(s *service.Service) (http.Handler, error) {
		greeting := s.Properties().String("shop.greeting", "welcome")
		prices := s.Calls().Command("prices", ipc.Settings{})
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			price, err := ipc.CallOr(r.Context(), prices, func(ctx context.Context) (string, error) {
				return ask(ctx, s.Calls().HTTPClient(), "http://prices/tea")
			}, func(context.Context, error) (string, error) { return "ask at the counter", nil })
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintf(w, "%s, tea: %s", greeting.Get(), price)
		}), nil
	}})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(fetch("http://" + s.Addr() + "/"))
	stop()
	fmt.Println("ended:", s.Wait())
	// Output:
	// welcome, tea: ask at the counter
	// ended: <nil>
}

// What dashboards and operators ask is answered apart from traffic, at a port of its own.
func ExampleConfig_admin() {
	ctx, stop := context.WithCancel(context.Background())
	everything := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "the service answers %s", r.URL.Path) })
	s, err := service.Start(ctx, service.Config{Name: "hello", Handler: everything, Admin: "127.0.0.1:0", Log: quiet})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(fetch("http://" + s.Addr() + "/info"))
	fmt.Println(strings.Contains(fetch("http://"+s.AdminAddr()+"/info"), `"app":"hello"`))
	stop()
	fmt.Println("ended:", s.Wait())
	// Output:
	// the service answers /info
	// true
	// ended: <nil>
}

var quiet = slog.New(slog.DiscardHandler)

func fetch(url string) string {
	text, err := ask(context.Background(), http.DefaultClient, url)
	if err != nil {
		log.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return text
}

func ask(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
