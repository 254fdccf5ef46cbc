// Streaming runs one service of the reference application: streaming NAME.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/roadbed/roadbed/examples/streaming"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: streaming NAME\n\nservices:")
		for _, s := range streaming.Services() {
			fmt.Fprintf(os.Stderr, "  %-16s %-12s %s\n", s.Name, s.Criticality, s.Why)
		}
		fmt.Fprintf(os.Stderr, "  %-16s %-12s %s\n", streaming.PopulationName, "", "members who use them, by way of the edge at ROADBED_EDGE")
		os.Exit(2)
	}
	if err := streaming.Serve(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
