package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// listing is how a list is shown: as a table, JSON or YAML, once or again each second.
type listing struct {
	format string
	watch  bool
}

func (l *listing) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&l.format, "output", "o", "table", "table, json or yaml")
	cmd.Flags().BoolVar(&l.watch, "watch", false, "show it again each second until interrupted")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
}

// show fetches rows and prints them. table turns a row into cells, in the order of header.
func show[T any](cmd *cobra.Command, l *listing, header []string, fetch func(context.Context) ([]T, error), cells func(T) []string) error {
	switch l.format {
	case "table", "json", "yaml":
	default:
		return usageError{fmt.Errorf("-o %s: use table, json or yaml", l.format)}
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	for {
		rows, err := fetch(ctx)
		if err != nil {
			return err
		}
		if l.watch && isTerminal(out) {
			fmt.Fprint(out, "\x1b[H\x1b[2J") // home, clear
		}
		if err := printRows(out, l.format, header, rows, cells); err != nil || !l.watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func printRows[T any](out io.Writer, format string, header []string, rows []T, cells func(T) []string) error {
	switch format {
	case "json":
		return printJSON(out, rows)
	case "yaml":
		// By way of JSON, so that both have the same names.
		b, err := json.Marshal(rows)
		if err != nil {
			return err
		}
		y, err := yaml.JSONToYAML(b)
		if err != nil {
			return err
		}
		_, err = out.Write(y)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(cells(r), "\t"))
	}
	return w.Flush()
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// ago says how long ago t was, short enough for a table.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := time.Since(t); {
	case d < 0:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
