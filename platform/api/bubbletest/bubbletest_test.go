package bubbletest_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/api/bubbletest"
)

func TestAnswersStreamInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		client := &http.Client{Transport: bubbletest.Transport{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Asked", r.Method)
			w.WriteHeader(http.StatusAccepted)
			var err error
			for ; err == nil; time.Sleep(time.Hour) {
				_, err = io.WriteString(w, "tick")
			}
			ended <- err
		})}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://anybody/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Asked") != http.MethodPut {
			t.Errorf("got %d %v, want 202 and X-Asked: PUT", resp.StatusCode, resp.Header)
		}
		began := time.Now()
		tick := make([]byte, 4)
		for range 3 {
			if _, err := io.ReadFull(resp.Body, tick); err != nil || string(tick) != "tick" {
				t.Fatalf("got %q, %v, want a tick", tick, err)
			}
		}
		if took := time.Since(began); took != 2*time.Hour {
			t.Errorf("three ticks came within %s, want 2h", took)
		}
		cancel()
		if err := <-ended; err == nil {
			t.Error("the handler writes on after the request has ended")
		}
	})
}
