package discovery_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/registry"
)

// A process registers itself and is found by another.
func Example() {
	reg := registry.New(registry.Config{})
	server := httptest.NewServer(reg.Handler())
	defer server.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := discovery.New(discovery.Config{Registry: []string{server.URL}})
	ran := make(chan error)
	go func() { ran <- c.Run(ctx) }()

	found := make(chan roadbed.Instance, 1)
	stop := c.Watch("catalog", func(list []roadbed.Instance) {
		if len(list) > 0 {
			select {
			case found <- list[0]:
			default:
			}
		}
	})
	me := c.Register(roadbed.Instance{ID: "catalog-1", App: "catalog", Host: "127.0.0.1", Port: 8080, Status: roadbed.Up})
	i := <-found
	fmt.Println(i.ID, "at", i.Addr(), "is", i.Status)

	stop()
	if err := me.Cancel(ctx); err != nil {
		fmt.Println(err)
	}
	cancel()
	<-ran
	// Output: catalog-1 at 127.0.0.1:8080 is UP
}

// Callers that choose themselves stay in their zone as long as it has enough instances.
func ExampleNear() {
	here := roadbed.Location{Region: "eu", Zone: "a"}
	list := []roadbed.Instance{
		{ID: "here", Status: roadbed.Up, Location: here},
		{ID: "next door", Status: roadbed.Up, Location: roadbed.Location{Region: "eu", Zone: "b"}},
		{ID: "overseas", Status: roadbed.Up, Location: roadbed.Location{Region: "us", Zone: "a"}},
	}
	for _, i := range discovery.Near(list, here, 2) {
		fmt.Println(i.ID)
	}
	// Output:
	// here
	// next door
}
