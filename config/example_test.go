package config_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/roadbed/roadbed/config"
)

func Example() {
	props := config.New(config.Options{Scope: config.Scope{App: "catalog"}}) // no URL: no server to follow
	timeout := props.Duration("catalog.db.timeout", 300*time.Millisecond)
	fmt.Println(timeout.Get())
	// Output: 300ms
}

func ExampleValue_OnChange() {
	props := config.New(config.Options{})
	size := props.Int("catalog.cache.size", 1000)
	stop := size.OnChange(func(old, new int) { fmt.Printf("the cache goes from %d to %d titles\n", old, new) })
	defer stop()
	fmt.Println(size.Get())
	// Output: 1000
}

func ExampleProperties_List() {
	props := config.New(config.Options{Override: map[string]string{"catalog.genres": "drama, crime"}})
	fmt.Println(props.List("catalog.genres", nil).Get())
	// Output: [drama crime]
}

type Limits struct {
	Timeout time.Duration // catalog.db.timeout
	Rows    int           // catalog.db.rows
	Hosts   []string      // catalog.db.hosts
	Pool    struct {
		Size int `config:"maxSize"` // catalog.db.pool.maxSize
	}
}

func (l *Limits) Validate() error {
	return errors.Join(
		config.Between("timeout", l.Timeout, time.Millisecond, 10*time.Second),
		config.Between("rows", l.Rows, 1, 100),
	)
}

func ExampleBind() {
	props := config.New(config.Options{Override: map[string]string{"catalog.db.rows": "50", "catalog.db.hosts": "db1,db2"}})
	db, err := config.Bind(props, "catalog.db.", Limits{Timeout: 300 * time.Millisecond, Rows: 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	now := db.Get()
	fmt.Println(now.Timeout, now.Rows, now.Hosts)
	// Output: 300ms 50 [db1 db2]
}
