package fleet

import (
	"runtime"
)

// spawner forks every child from one operating system thread. The kernel sends a child its parent-death signal when
// the thread that forked it ends, not when the process does; the Go runtime may end any thread that is not held.
type spawner struct {
	work chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread() // back to the pool alive, when no child is left to mind
		for fn := range s.work {
			fn()
		}
	}()
	return s
}

// do runs fn on the thread and waits for it.
func (s *spawner) do(fn func()) {
	ran := make(chan struct{})
	s.work <- func() { defer close(ran); fn() }
	<-ran
}

// close lets the thread go. No child may be left, and do must not be called any more.
func (s *spawner) close() {
	close(s.work)
	<-s.done
}
