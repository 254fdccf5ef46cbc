package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
)

func ExampleEngine_HTTPClient() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "titles for %s", r.Header.Get(ipc.HeaderCaller))
	}))
	defer srv.Close()
	host, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	n, _ := strconv.Atoi(port)

	calls := ipc.New(ipc.Options{App: "api", Lists: ipc.Static{
		"catalog": {{ID: "catalog-1", Host: host, Port: n, Status: roadbed.Up}},
	}})
	defer calls.Close()
	resp, err := calls.HTTPClient().Get("http://catalog/titles")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: titles for api
}

func ExampleCallOr() {
	calls := ipc.New(ipc.Options{})
	defer calls.Close()
	recommendations := calls.Command("recommendations", ipc.Settings{MaxConcurrent: 50})
	titles, err := ipc.CallOr(context.Background(), recommendations,
		func(context.Context) ([]string, error) { return nil, errors.New("down") },
		func(_ context.Context, cause error) ([]string, error) { return []string{"the most popular"}, nil })
	fmt.Println(titles, err)
	// Output: [the most popular] <nil>
}

func ExampleDefine() {
	calls := ipc.New(ipc.Options{App: "api"})
	defer calls.Close()
	asked := 0
	titleOf := ipc.Define(calls, "TitleOf", ipc.Definition[int, string]{
		Group: "Catalog",
		Run: func(_ context.Context, id int) (string, error) {
			asked++
			if id == 13 {
				return "", errors.New("the catalog is down")
			}
			return fmt.Sprintf("title %d", id), nil
		},
		Fallback: func(context.Context, int, error) (string, error) { return "a popular title", nil },
		CacheKey: strconv.Itoa,
	})

	ctx := ipc.NewRequest(context.Background()) // a handler's requests have it already
	for _, id := range []int{7, 13, 7} {
		title, err := titleOf.Call(ctx, id)
		fmt.Println(title, err)
	}
	fmt.Println("asked", asked, "times")
	// Output:
	// title 7 <nil>
	// a popular title <nil>
	// title 7 <nil>
	// asked 2 times
}

func ExampleBatch() {
	calls := ipc.New(ipc.Options{App: "api"})
	defer calls.Close()
	nameOf := ipc.Batch(calls, "NameOf", ipc.BatchDefinition[int, string]{
		Run: func(_ context.Context, ids []int) (map[int]string, error) { // one query for all
			names := map[int]string{}
			for _, id := range ids {
				names[id] = fmt.Sprintf("member %d of %d", id, len(ids))
			}
			return names, nil
		},
		MaxBatch: 3,
	})

	ctx := ipc.NewRequest(context.Background())
	a, b, c := nameOf.Go(ctx, 1), nameOf.Go(ctx, 2), nameOf.Go(ctx, 3)
	for _, f := range []*ipc.Future[string]{a, b, c} {
		fmt.Println(f.Get(ctx))
	}
	// Output:
	// member 1 of 3 <nil>
	// member 2 of 3 <nil>
	// member 3 of 3 <nil>
}
