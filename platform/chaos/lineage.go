package chaos

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/roadbed/roadbed/fault/search"
	"github.com/roadbed/roadbed/ipc"
)

// Heard is a call that an instance of an app made for a request, as its /ipc/why tells.
type Heard struct {
	Caller   string // the app
	Instance string // the instance, "" if it is not known
	ipc.Explanation
}

// failed reports whether the caller got nothing of use.
func (h *Heard) failed() bool {
	return h.Kind != ipc.None.String() || h.Status >= http.StatusInternalServerError
}

// Lineage puts the calls that were made for one request together: who was called on whose behalf, and what stood in for
// what. usual is the lineage of the same request when nothing fails, nil if this is it: a call that is not usual, made
// after one that failed for the same caller, is taken to stand in for it.
//
// A request takes its calls with it, so a call belongs to the last one before it that reached its caller's instance.
func Lineage(heard []Heard, usual *search.Trace) search.Trace {
	heard = slices.Clone(heard)
	slices.SortStableFunc(heard, func(a, b Heard) int { return a.At.Compare(b.At) })
	children := map[int][]int{} // by place in heard; -1 = the request itself
	for i := range heard {
		parent := -1
		for j := range i {
			if heard[j].App == heard[i].Caller && heard[j].reached(heard[i].Instance, heard[i].At) {
				parent = j
			}
		}
		children[parent] = append(children[parent], i)
	}
	expected := map[string]int{}
	if usual != nil {
		for i := range usual.Calls {
			expected[way(usual.Calls, i)]++
		}
	}
	t := search.Trace{}
	var walk func(of, parent int)
	walk = func(of, parent int) {
		before := -1 // the latest failed sibling
		for _, i := range children[of] {
			me := len(t.Calls)
			c := search.Call{Point: "client:" + heard[i].App, Parent: parent, Instead: -1, Failed: heard[i].failed()}
			t.Calls = append(t.Calls, c)
			if k := way(t.Calls, me); usual != nil {
				if expected[k]--; expected[k] < 0 && before >= 0 {
					t.Calls[me].Instead = before
				}
			}
			if c.Failed {
				before = me
			}
			walk(i, me)
		}
	}
	walk(-1, -1)
	return t
}

// reached reports whether the call was tried at that instance before at. Without the instance's name any will do.
func (h *Heard) reached(instance string, at time.Time) bool {
	if at.Before(h.At) {
		return false
	}
	return instance == "" || len(h.Attempts) == 0 || slices.ContainsFunc(h.Attempts, func(a ipc.Attempted) bool { return cmp.Or(a.Instance, instance) == instance })
}

// way names a call by those that led to it.
func way(calls []search.Call, i int) string {
	out := ""
	for ; i >= 0; i = calls[i].Parent {
		out = calls[i].Point + ">" + out
	}
	return out
}
