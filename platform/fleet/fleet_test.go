package fleet

import (
	"syscall"
	"testing"
)

func TestLostInstanceIsReplacedInItsZoneAndSlot(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(l.service("hello", 3))
	before := l.settled(g.Name, 3, StateUp)
	if err := syscall.Kill(before[1].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.until("another life of slot 1", func() bool {
		v := l.f.groups[g.Name].slots[1].view
		return v.State == StateUp && v.ID != before[1].ID
	})
	after := l.f.Instances(g.Name)
	for i := range 3 {
		if after[i].Zone != before[i].Zone || after[i].Slot != i || after[i].Port != before[i].Port {
			t.Errorf("slot %d: got %+v, want zone, slot and port of %+v", i, after[i], before[i])
		}
	}
	if after[0].ID != before[0].ID || after[2].ID != before[2].ID {
		t.Errorf("the others were touched: %+v became %+v", before, after)
	}
	if e := after[1].LastExit; e == nil || e.Signal != "KILL" {
		t.Errorf("last exit: got %+v, want signal KILL", e)
	}
}
