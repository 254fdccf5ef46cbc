package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/roadbed/roadbed/platform/api"
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

// show fetches rows and prints them. cells turns a row into cells, in the order of header.
func show[T any](cmd *cobra.Command, l *listing, header []string, fetch func(context.Context) ([]T, error), cells func(T) []string) error {
	return repeat(cmd, l, fetch, func(out io.Writer, rows []T) error { return printTable(out, header, rows, cells) })
}

// showOne fetches one thing and prints what there is to say about it, a fact per line.
func showOne[T any](cmd *cobra.Command, l *listing, fetch func(context.Context) (T, error), facts func(T) [][2]string) error {
	return repeat(cmd, l, fetch, func(out io.Writer, v T) error {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, f := range facts(v) {
			fmt.Fprintln(w, f[0]+"\t"+printable(f[1]))
		}
		return w.Flush()
	})
}

// repeat fetches what l asks for and prints it, once or again each second.
func repeat[T any](cmd *cobra.Command, l *listing, fetch func(context.Context) (T, error), table func(io.Writer, T) error) error {
	switch l.format {
	case "table", "json", "yaml":
	default:
		return usageError{fmt.Errorf("-o %s: use table, json or yaml", l.format)}
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	for {
		v, err := fetch(ctx)
		if err != nil {
			return err
		}
		if l.watch && isTerminal(out) {
			fmt.Fprint(out, "\x1b[H\x1b[2J") // home, clear
		}
		if err := printAs(out, l.format, v, table); err != nil || !l.watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// printAs prints v as JSON or YAML, or as table writes it.
func printAs[T any](out io.Writer, format string, v T, table func(io.Writer, T) error) error {
	switch format {
	case "json":
		return printJSON(out, v)
	case "yaml":
		// By way of JSON, so that both have the same names.
		b, err := json.Marshal(v)
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
	return table(out, v)
}

func printTable[T any](out io.Writer, header []string, rows []T, cells func(T) []string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		row := cells(r)
		for i := range row {
			row[i] = printable(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// widest is how many characters a cell of a table may have; -o json and -o yaml show all.
const widest = 120

// printable returns s as a cell of a table may hold it. Names are whatever anybody registered: what would end a line
// or steer the terminal is escaped.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strings.Trim(strconv.QuoteToGraphic(s), `"`)
	}
	if utf8.RuneCountInString(s) > widest {
		s = string([]rune(s)[:widest-3]) + "..."
	}
	return s
}

// screen is the terminal of a platform in the foreground: what is logged scrolls above one line that lives at the
// bottom. Its zero value is ready; on anything but a terminal every line simply follows the one before.
type screen struct {
	out, log io.Writer

	mu   sync.Mutex // guards what follows, and the order of writes
	live string
}

const eraseLine = "\r\x1b[K"

// Write logs p.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == "" {
		return s.log.Write(p)
	}
	fmt.Fprint(s.out, eraseLine)
	n, err := s.log.Write(p)
	fmt.Fprint(s.out, s.live)
	return n, err
}

// show puts line in place of the one that lives at the bottom; an empty one ends it.
func (s *screen) show(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !isTerminal(s.out):
		if line != "" {
			fmt.Fprintln(s.out, line)
		}
		return
	case line != "":
		fmt.Fprint(s.out, eraseLine+line)
	case s.live != "":
		fmt.Fprintln(s.out)
	}
	s.live = line
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

// completer returns what completes a first argument: a name per row that fetch returns.
func completer[T any](c *cli, fetch func(context.Context, *api.Client) ([]T, error), name func(T) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		client, err := c.client()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		rows, err := fetch(cmd.Context(), client)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, r := range rows {
			names = append(names, name(r))
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// listAt fetches the JSON list at path, for a completer.
func listAt[T any](path string) func(context.Context, *api.Client) ([]T, error) {
	return func(ctx context.Context, client *api.Client) ([]T, error) { return fetchList[T](client, path)(ctx) }
}
