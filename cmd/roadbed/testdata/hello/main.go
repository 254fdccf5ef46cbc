// Hello is somebody's service: it knows nothing of roadbed and listens on the port it is told.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	log.Printf("hello listens on %s", os.Args[1])
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s, asked for %s\n", os.Args[1], r.URL.Path)
	})))
}
