package shed

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// line is a queue, and what becomes of requests in it.
type line struct {
	*gate
	set  *filter.Filter
	wait *filter.Filter
	log  []string
	held map[int]*filter.Exchange
}

func newLine(t *testing.T, doc string) *line {
	t.Helper()
	l := &line{gate: newGate(t), held: map[int]*filter.Exchange{}}
	fs, err := l.RouteQueue(json.RawMessage(doc))
	if err != nil {
		t.Fatal(err)
	}
	l.set = fs[0]
	for _, f := range l.Filters() {
		if f.Name == "RouteQueue" {
			l.wait = f
		}
	}
	return l
}

// come has request n come; it is noted when it is let on, or refused.
func (l *line) come(n int, ctx context.Context) {
	x := &filter.Exchange{Plan: &filter.Plan{Route: "shop"}}
	x.SetContext(ctx)
	l.set.Apply(x)
	go func() {
		if err := l.wait.Apply(x); err != nil {
			status, _, _ := filter.Verdict(err)
			l.log = append(l.log, fmt.Sprintf("%d: %d", n, status))
			x.End()
			return
		}
		l.log = append(l.log, fmt.Sprintf("%d on", n))
		l.held[n] = x
	}()
	synctest.Wait()
}

func (l *line) leave(n int) {
	l.held[n].End()
	synctest.Wait()
}

// said is what has become of requests since it was last asked.
func (l *line) said() string {
	s := strings.Join(l.log, ", ")
	l.log = nil
	return s
}

func TestInAQueueWhoCameLastGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, `{"concurrency": 1, "depth": 2, "wait": "1s"}`)
		bg := context.Background()
		want := func(what, want string) {
			t.Helper()
			if got := l.said(); got != want {
				t.Errorf("%s: got %q, want %q", what, got, want)
			}
		}
		l.come(1, bg)
		want("a place is free", "1 on")
		l.come(2, bg)
		l.come(3, bg)
		want("none is free", "")
		l.come(4, bg)
		want("the queue is full: the oldest is refused", "2: 503")
		l.leave(1)
		want("one leaves: the last goes on", "4 on")
		l.leave(4)
		want("another leaves", "3 on")
		l.come(5, bg)
		time.Sleep(time.Second)
		synctest.Wait()
		want("none leaves in time", "5: 503")
		ctx, cancel := context.WithCancel(bg)
		l.come(6, ctx)
		cancel()
		synctest.Wait()
		want("its client goes away", "6: 400")
		l.leave(3)
		l.come(7, bg)
		want("nobody is there any more", "7 on")
		l.leave(7)
		q := func() *queue {
			x := &filter.Exchange{}
			l.set.Apply(x)
			return x.Value(queueKey).(*queue)
		}()
		if q.busy != 0 || len(q.waiting) != 0 {
			t.Errorf("when all is over: %d busy, %d waiting, want none", q.busy, len(q.waiting))
		}
		for result, n := range map[string]int64{"waited": 2, "full": 1, "late": 1, "gone": 1} {
			if got := l.meter.Counter("edge.queue", "edge.route", "shop", "result", result).Count(); got != n {
				t.Errorf("edge.queue %s: got %d, want %d", result, got, n)
			}
		}
	})
}

func TestAQueueWaitsNoLongerThanTheRequestMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, `{"concurrency": 1, "depth": 1, "wait": "10s"}`)
		l.come(1, context.Background())
		x := &filter.Exchange{Plan: &filter.Plan{Route: "shop"}, Deadline: filter.Now() + int64(time.Second)}
		l.set.Apply(x)
		start := time.Now()
		if err := l.wait.Apply(x); err == nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v, want a refusal after 1s", err, time.Since(start))
		}
		l.leave(1)
	})
}

func TestAQueueThatCannotBeMeantIsRefused(t *testing.T) {
	s := newGate(t)
	for _, doc := range []string{`{}`, `[]`, `{"concurrency": 0}`, `{"concurrency": 1, "depth": -1}`, `{"concurrency": 1, "wait": "soon"}`, `{"concurrency": 1, "wait": "2m"}`, `{"concurrency": 1, "width": 1}`} {
		if _, err := s.RouteQueue(json.RawMessage(doc)); err == nil {
			t.Errorf("%s: got no error", doc)
		}
	}
	if _, err := s.RouteQueue(json.RawMessage(`{"concurrency": 1}`)); err != nil {
		t.Errorf("only concurrency: got %v, want no error", err)
	}
}

func TestAPlaceOfAQueueIsGivenBackOnceTheAppHasSentItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, `{"concurrency": 1, "depth": 1, "wait": "1m"}`)
		l.come(1, context.Background())
		l.come(2, context.Background())
		l.held[1].Served() // and its client has not taken it yet
		synctest.Wait()
		if got := strings.Join(l.log, ", "); got != "1 on, 2 on" {
			t.Errorf("got %s; want that the second goes on", got)
		}
		l.leave(1)
		l.come(3, context.Background())
		if got := strings.Join(l.log, ", "); got != "1 on, 2 on" {
			t.Errorf("once the first is over: got %s; want that its place is not given back twice", got)
		}
		l.leave(2)
		l.leave(3)
	})
}
