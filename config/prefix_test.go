package config

import (
	"fmt"
	"testing"
)

// The race detector is what fails here.
func TestPrefixMayBeAskedForWhilePropertiesChange(t *testing.T) {
	p := New(Options{})
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		for i := range 500 {
			p.replace(map[string]string{"a.b": fmt.Sprint(i)}, map[string]bool{}, uint64(i))
		}
	}()
	for range 500 {
		p.Prefix("a.", func(all map[string]string) { all["mine"] = "to write" })()
	}
	<-changed
}
