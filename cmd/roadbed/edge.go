package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
)

func (c *cli) edge() *cobra.Command {
	cmd := &cobra.Command{Use: "edge", GroupID: "change", Short: "The front door: routes, imports, surgical rules, programs", Args: noArgs, RunE: showHelp}
	routes := &cobra.Command{Use: "route", Aliases: []string{"routes"}, Short: "Which requests go where", Args: noArgs, RunE: showHelp}
	routes.AddCommand(c.routeList(), c.routeExplain(), c.routeApply(), c.routeGet(), c.routeRemove(), c.routeTest(), c.routeStatus())
	surgical := &cobra.Command{Use: "surgical", Short: "Send single requests elsewhere, for a while", Args: noArgs, RunE: showHelp}
	surgical.AddCommand(c.surgicalAdd(), c.surgicalList(), c.surgicalRemove())
	cmd.AddCommand(routes, c.edgeImport(), surgical, c.programs())
	return cmd
}

// fetchRoutes returns the edge's routes.
func fetchRoutes(client *api.Client) func(context.Context) (edge.RoutesView, error) {
	return func(ctx context.Context) (t edge.RoutesView, err error) {
		err = client.Do(ctx, http.MethodGet, "/api/v1/edge/routes", nil, &t)
		return t, err
	}
}

func (c *cli) routeList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List routes, the most specific first, and apps reachable under their names",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return repeat(cmd, &l, fetchRoutes(client), func(out io.Writer, t edge.RoutesView) error {
				rows := [][]string{}
				for _, r := range t.Routes {
					m := r.Match
					var to []string
					for _, b := range r.Backends {
						name := cmp.Or(b.VIP, b.Addr)
						if b.Status != 0 {
							name = fmt.Sprint("status ", b.Status)
						}
						if len(r.Backends) > 1 {
							name += fmt.Sprintf(" %d", b.Weight)
						}
						to = append(to, name)
					}
					if len(to) == 0 {
						to = []string{"answers itself"}
					}
					id := r.ID
					if r.Disabled {
						id += " (disabled)"
					}
					more := len(m.Headers) + len(m.Query) + len(m.Cookies) + min(1, len(m.When)) + min(1, len(m.Scheme))
					rows = append(rows, []string{id, cmp.Or(strings.Join(m.Hosts, ", "), "any"), cmp.Or(m.Path.Exact, m.Path.Regex, strings.TrimSuffix(m.Path.Prefix, "/")+"/..."),
						cmp.Or(strings.Join(m.Methods, ","), "any"), fmt.Sprint(more), strings.Join(to, ", ")})
				}
				for _, a := range t.Apps {
					rows = append(rows, []string{a, "any", "/" + a + "/...", "any", "0", a})
				}
				if err := printTable(out, []string{"ROUTE", "HOST", "PATH", "METHOD", "CONDITIONS", "TO"}, rows, func(r []string) []string { return r }); err != nil {
					return err
				}
				wrong := slices.DeleteFunc(slices.Clone(t.Objects), func(o edge.RouteObject) bool {
					return !slices.ContainsFunc(o.Conditions, func(c edge.RouteCondition) bool { return c.Status == "False" })
				})
				return printObjects(out, wrong)
			})
		},
	}
	l.flags(cmd)
	return cmd
}

func (c *cli) routeExplain() *cobra.Command {
	var l listing
	var method, user string
	var fields []string
	cmd := &cobra.Command{
		Use:   "explain URL",
		Short: "Say which route takes a request, and why",
		Example: `  roadbed edge route explain http://shop.example.com/cart/1
  roadbed edge route explain /cart/1 --method POST --header 'X-Device: tv' --user u-17`,
		Args: exactArgs("a URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			q := url.Values{"url": {args[0]}, "method": {method}, "header": fields}
			if user != "" {
				q.Set("user", user)
			}
			fetch := func(ctx context.Context) (e edge.RouteExplanation, err error) {
				err = client.Do(ctx, http.MethodGet, "/api/v1/edge/explain?"+q.Encode(), nil, &e)
				return e, err
			}
			return repeat(cmd, &l, fetch, explained)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&method, "method", "GET", "of the request")
	fs.StringArrayVar(&fields, "header", nil, "a field of the request, as 'Name: value'; may be repeated")
	fs.StringVar(&user, "user", "", "who asks")
	l.flags(cmd)
	return cmd
}

// explained prints an explanation, a fact a line, and below it the routes that were near.
func explained(out io.Writer, e edge.RouteExplanation) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fact := func(name, value string) {
		if value != "" {
			fmt.Fprintln(w, name+"\t"+printable(value))
		}
	}
	fact("route", cmp.Or(e.Route, "none"))
	if e.Line > 0 {
		fact("written in", fmt.Sprintf("%s, line %d", e.Document, e.Line))
	}
	fmt.Fprintln(w, "why\t"+e.Why)
	fact("surgical rule", e.Surgical)
	fact("answered by", e.Endpoint)
	fact("path asked for", e.Path)
	fact("host asked for", e.Host)
	if len(e.Shares) == 0 {
		fact("to", strings.Join(e.Backends, ", "))
	}
	for _, s := range e.Shares {
		line := fmt.Sprintf("%s %g %%", s.Backend, s.Percent)
		if s.Sticky != "" {
			line += ", sticky by " + s.Sticky
		}
		if s.Chosen && len(e.Shares) > 1 {
			line += ": this one"
		}
		fact("to", line)
	}
	fact("filters in", strings.Join(e.Inbound, ", "))
	fact("filters out", strings.Join(e.Outbound, ", "))
	fact("timeout", e.Timeout)
	fact("copies to", e.Mirror)
	if err := w.Flush(); err != nil || len(e.Others) == 0 {
		return err
	}
	fmt.Fprintln(out)
	var rows [][]string
	for _, o := range e.Others {
		matches := "no"
		if o.Matches {
			matches = "yes"
		}
		rows = append(rows, []string{o.Route, matches, o.Why})
	}
	return printTable(out, []string{"OTHER ROUTE", "MATCHES", "WHY NOT"}, rows, func(r []string) []string { return r })
}

func (c *cli) routeStatus() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the routes as written are in force",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			var refused string
			err = repeat(cmd, &l, fetchRoutes(client), func(out io.Writer, t edge.RoutesView) error {
				if refused = t.Refused; refused != "" {
					return nil
				}
				fmt.Fprintf(out, "in force: %s, %s under their names\n", counted(len(t.Routes), "route"), counted(len(t.Apps), "app"))
				if len(t.Documents) > 0 {
					fmt.Fprintln(out)
					if err := printTable(out, []string{"DOCUMENT", "BYTES", "ROUTES"}, t.Documents, func(d edge.RouteDocument) []string {
						return []string{d.Name, fmt.Sprint(d.Bytes), fmt.Sprint(d.Routes)}
					}); err != nil {
						return err
					}
				}
				return printObjects(out, t.Objects)
			})
			if err == nil && refused != "" {
				err = fmt.Errorf("the newest routes are not in force, the ones before are: %s", refused)
			}
			return err
		},
	}
	l.flags(cmd)
	return cmd
}

// printObjects prints objects of the Gateway API and what has become of them, if there are any.
func printObjects(out io.Writer, objects []edge.RouteObject) error {
	var rows [][]string
	for _, o := range objects {
		for _, k := range o.Conditions {
			rows = append(rows, []string{o.Kind, o.Namespace + "/" + o.Name, fmt.Sprint(len(o.Routes)), k.Type, k.Status, k.Reason, orDash(k.Message)})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return printTable(out, []string{"KIND", "OBJECT", "ROUTES", "CONDITION", "STATUS", "REASON", "MESSAGE"}, rows, func(r []string) []string { return r })
}

func (c *cli) routeApply() *cobra.Command {
	var w routesWrite
	var rev uint64
	cmd := &cobra.Command{
		Use:   "apply FILE...",
		Short: "Put documents of routes into force, all of them or none",
		Long: `Check a document of routes, JSON or YAML or of the Kubernetes Gateway API, with those that are
there, and put it into force: one mistake, and nothing changes. "-" is standard input. Several
files become one document, which is in force as a whole or not at all.

The document is the property edge.routes, or edge.routes.NAME with --name, so that it is in the
change log, and reaches every edge. What it was before is had with 'roadbed edge route get --rev',
and with --if-rev nobody is overwritten who was there in between. One that is longer than 64 KiB
is stored packed, up to 768 KiB of that, which about 10,000 routes come to.`,
		Example: `  roadbed edge route apply routes.yaml --dry-run
  roadbed edge route apply shop.yaml --name shop --why "the new cart"
  roadbed edge route apply gateway.yaml routes/*.yaml`,
		Args: someArgs("the files to apply"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			text, where, err := readDocuments(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			w.rev = nil
			if cmd.Flags().Changed("if-rev") {
				w.rev = &rev
			}
			return where.tell(w.apply(cmd, client, text))
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&w.name, "name", "", "of a document beside the first one")
	fs.BoolVar(&w.dry, "dry-run", false, "only check it, and say what would change")
	fs.Uint64Var(&rev, "if-rev", 0, "only if it is at this revision still; 0 = only if there is none")
	breakGlass(cmd, &w.glass)
	return cmd
}

func (c *cli) routeGet() *cobra.Command {
	var rev uint64
	cmd := &cobra.Command{
		Use:   "get [NAME]",
		Short: "Print a document of routes as it was written",
		Long: `Print a document of routes, the first one or that of NAME, as it was written, in force or not.
Its revision is told on standard error, for the --if-rev of 'roadbed edge route apply'.`,
		Example: `  roadbed edge route get shop > shop.yaml
  roadbed edge route get --rev 17 | roadbed edge route apply - --why "as before"`,
		Args: atMostOne("the NAME of a document"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			q := url.Values{"name": args}
			if rev != 0 {
				q.Set("rev", fmt.Sprint(rev))
			}
			var doc edge.WrittenRoutes
			if err := client.Do(cmd.Context(), http.MethodGet, "/api/v1/edge/routes/document?"+q.Encode(), nil, &doc); err != nil {
				return err
			}
			by := ""
			if doc.UpdatedBy != "" {
				by = fmt.Sprintf(", by %s %s ago", doc.UpdatedBy, ago(time.UnixMilli(doc.TS)))
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s, revision %d%s\n", doc.Document, doc.Rev, by)
			_, err = io.WriteString(cmd.OutOrStdout(), strings.TrimSuffix(doc.Text, "\n")+"\n")
			return err
		},
	}
	cmd.Flags().Uint64Var(&rev, "rev", 0, "as it was at this revision, of which 64 are kept; as it is when not given")
	return cmd
}

func (c *cli) routeRemove() *cobra.Command {
	var w routesWrite
	cmd := &cobra.Command{
		Use:   "remove [NAME]",
		Short: "Remove a document of routes, if the others hold without it",
		Args:  atMostOne("the NAME of a document"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			w.name = strings.Join(args, "")
			change, err := w.send(cmd, client, http.MethodDelete, nil)
			if err != nil {
				return err
			}
			if w.dry {
				fmt.Fprintf(cmd.OutOrStdout(), "without %s there would be %s; nothing is changed\n", change.Document, counted(change.Routes, "route"))
				return nil
			}
			return inForce(cmd.OutOrStdout(), change, fmt.Sprintf("%s is removed: %s left", change.Document, counted(change.Routes, "route")))
		},
	}
	cmd.Flags().BoolVar(&w.dry, "dry-run", false, "only check it, and say what would change")
	breakGlass(cmd, &w.glass)
	return cmd
}

func (c *cli) routeTest() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "test [FILE]",
		Short: "Try requests on the routes in force, and compare what becomes of them",
		Long: `Find out what becomes of requests by the routes in force, and compare that with what must. Nobody
is asked. It ends with status 1 if one of them comes out otherwise. "-" is standard input.

Tests are a list, by itself or under tests in a document of routes, whose own are then tried before
those routes are taken into force; without FILE they are tried again:

  tests:
  - {request: GET http://shop.example.com/cart/1, route: shop, backend: cart, path: /1}
  - {request: POST /old, headers: ["X-Device: tv"], user: u-17, status: 410}
  - {request: /nothing, route: none}`,
		Args: atMostOne("a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			text := ""
			if len(args) > 0 {
				if text, err = readFile(cmd.InOrStdin(), args[0]); err != nil {
					return err
				}
			}
			failed, all := 0, 0
			fetch := func(ctx context.Context) (out []edge.RouteOutcome, err error) {
				err = client.Do(ctx, http.MethodPost, "/api/v1/edge/routes/test", map[string]string{"text": text}, &out)
				failed, all = 0, len(out)
				for _, o := range out {
					if !o.OK {
						failed++
					}
				}
				return out, err
			}
			err = show(cmd, &l, []string{"REQUEST", "OK", "GOT", "WHY"}, fetch, func(o edge.RouteOutcome) []string {
				return []string{o.Request, map[bool]string{true: "yes", false: "no"}[o.OK], o.Got, orDash(o.Why)}
			})
			if err == nil && failed > 0 {
				err = fmt.Errorf("%d of %s did not come out as they must", failed, counted(all, "request"))
			}
			return err
		},
	}
	l.flags(cmd)
	return cmd
}

// routesWrite is a change of a document of routes.
type routesWrite struct {
	name       string
	dry, glass bool
	rev        *uint64 // that it must be at; 0: there must be none; nil: whatever is there
}

// send has the edge make a change, and says what is different, or would be.
func (w *routesWrite) send(cmd *cobra.Command, client *api.Client, method string, in any) (change edge.RouteChange, err error) {
	q := url.Values{}
	for key, on := range map[string]bool{"dryRun": w.dry, "breakGlass": w.glass} {
		if on {
			q.Set(key, "true")
		}
	}
	if w.name != "" {
		q.Set("name", w.name)
	}
	if w.rev != nil {
		client.Header = ifRevision(*w.rev)
	}
	if err := client.Do(cmd.Context(), method, "/api/v1/edge/routes?"+q.Encode(), in, &change); err != nil {
		return change, fmt.Errorf("nothing is changed: %w", frozen(err))
	}
	for _, n := range change.Notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "mind: %s\n", noteText(n))
	}
	out := cmd.OutOrStdout()
	for _, l := range []struct {
		word string
		ids  []string
	}{{"added", change.Added}, {"changed", change.Changed}, {"removed", change.Removed}} {
		if len(l.ids) > 0 {
			shown := l.ids[:min(len(l.ids), 20)]
			fmt.Fprintf(out, "%s: %s", l.word, strings.Join(shown, " "))
			if more := len(l.ids) - len(shown); more > 0 {
				fmt.Fprintf(out, " and %d more", more)
			}
			fmt.Fprintln(out)
		}
	}
	return change, printObjects(out, change.Objects)
}

// apply has the edge check a document and put it into force.
func (w *routesWrite) apply(cmd *cobra.Command, client *api.Client, text string) error {
	change, err := w.send(cmd, client, http.MethodPut, map[string]string{"text": text})
	if err != nil {
		return err
	}
	if w.dry {
		fmt.Fprintf(cmd.OutOrStdout(), "%s is right and would make %s; nothing is changed\n", change.Document, counted(change.Routes, "route"))
		return nil
	}
	return inForce(cmd.OutOrStdout(), change, fmt.Sprintf("%s is set, revision %d: %s", change.Document, change.Rev, counted(change.Routes, "route")))
}

// inForce says what was written, and whether the edge has taken it.
func inForce(out io.Writer, change edge.RouteChange, done string) error {
	switch {
	case change.InForce:
		fmt.Fprintf(out, "%s, in force\n", done)
		return nil
	case change.Refused != "":
		return fmt.Errorf("%s, but the edge has not taken it, as another document was written meanwhile: %s", done, change.Refused)
	}
	return fmt.Errorf("%s, but the edge has not heard of it within 5 s: see whether it reaches the platform, and, with `roadbed config explain %s --app edge`, whether another record wins there", done, change.Document)
}

// counted is n things in words.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// lines says where each file of a document begins, the first line being 1.
type lines []struct {
	file string
	from int
}

// tell has an error that names a line of the document name the file and its line.
func (l lines) tell(err error) error {
	if err == nil || len(l) < 2 {
		return err
	}
	text := wheresRE.ReplaceAllStringFunc(err.Error(), func(at string) string {
		line, convErr := strconv.Atoi(at[strings.LastIndexByte(at, ':')+1:])
		if convErr != nil {
			return at
		}
		for _, f := range slices.Backward(l) {
			if line >= f.from {
				return fmt.Sprintf("%s:%d", f.file, line-f.from+1)
			}
		}
		return at
	})
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

var wheresRE = regexp.MustCompile(`\bedge\.routes(\.[\w.-]+)?:\d+`)

// readDocuments reads files into one document of YAML, and says where each begins in it.
func readDocuments(in io.Reader, names []string) (text string, where lines, err error) {
	if len(names) == 1 {
		text, err = readFile(in, names[0])
		return text, nil, err
	}
	for _, name := range names {
		part, err := readFile(in, name)
		if err != nil {
			return "", nil, err
		}
		text += "---\n"
		where = append(where, lines{{name, 1 + strings.Count(text, "\n")}}...)
		text += strings.TrimRight(part, "\n") + "\n"
	}
	return text, where, nil
}

// readFile reads a whole file, or in if its name is "-".
func readFile(in io.Reader, name string) (string, error) {
	if name != "-" {
		b, err := os.ReadFile(name)
		return string(b), err
	}
	b, err := io.ReadAll(in)
	return string(b), err
}

func (c *cli) edgeImport() *cobra.Command {
	var from, format string
	var apply bool
	var w routesWrite
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Turn nginx, Zuul or Gateway API files into routes",
		Long: `Print the routes that the files of another system come to, and on standard error every directive
that could not be carried, with its line, why, and what to do.

  nginx    server, location, upstream, proxy_pass, rewrite, return, headers, timeouts, limits
  zuul     zuul.routes.*, zuul.prefix and the like, as properties or in Spring's YAML
  gateway  Gateway, HTTPRoute, GRPCRoute and ReferenceGrant of the Kubernetes Gateway API

With --apply the routes are put into force, as by 'roadbed edge route apply'.`,
		Example: `  roadbed edge import /etc/nginx/nginx.conf /etc/nginx/conf.d/*.conf > routes.yaml
  roadbed edge import application.yml --apply --name zuul`,
		Args: someArgs("the files to import"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, f := range []string{"name", "dry-run", "break-glass"} {
				if cmd.Flags().Changed(f) && !apply {
					return usageError{fmt.Errorf("--%s goes with --apply; without it the routes are only printed", f)}
				}
			}
			if format != "yaml" && format != "json" {
				return usageError{fmt.Errorf("-o %s: use yaml or json", format)}
			}
			if from != "" && !slices.Contains([]string{"nginx", "zuul", "gateway"}, from) {
				return usageError{fmt.Errorf("--from %s: use nginx, zuul or gateway", from)}
			}
			var files []edge.RouteText
			for _, a := range args {
				text, err := readFile(cmd.InOrStdin(), a)
				if err != nil {
					return err
				}
				files = append(files, edge.RouteText{Name: a, Text: text})
			}
			out, err := edge.ImportRoutes(files, from)
			if err != nil {
				return err
			}
			for _, n := range out.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), noteText(n))
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d routes; %d notes on what could not be carried as it was\n", len(out.Routes), len(out.Notes))
			text, err := json.MarshalIndent(out.Routes, "", "  ")
			if err != nil {
				return err
			}
			if format == "yaml" {
				if text, err = yaml.JSONToYAML(text); err != nil {
					return err
				}
			}
			if apply {
				client, err := c.client()
				if err != nil {
					return err
				}
				return w.apply(cmd, client, string(text))
			}
			_, err = io.Copy(cmd.OutOrStdout(), bytes.NewReader(append(bytes.TrimRight(text, "\n"), '\n')))
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&from, "from", "", "what the files are: nginx, zuul or gateway; as each looks if left out")
	fs.StringVarP(&format, "output", "o", "yaml", "yaml or json")
	fs.BoolVar(&apply, "apply", false, "put the routes into force")
	fs.BoolVar(&w.dry, "dry-run", false, "with --apply: only check, and say what would change")
	fs.StringVar(&w.name, "name", "", "with --apply: of a document beside the first one")
	breakGlass(cmd, &w.glass)
	cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"nginx", "zuul", "gateway"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

// noteText is a note on one line.
func noteText(n edge.RouteNote) string {
	where := n.File
	if n.Line > 0 {
		where += fmt.Sprintf(":%d", n.Line)
	}
	text := fmt.Sprintf("%s: %s: %s", where, n.What, n.Why)
	if n.Do != "" {
		text += "; " + n.Do
	}
	return text
}

func (c *cli) surgicalAdd() *cobra.Command {
	var r edge.SurgicalRule
	var file, path, fromHost string
	var fields []string
	var percent float64
	var last time.Duration
	var glass bool
	cmd := &cobra.Command{
		Use:   "add ID (--vip APP | --asg GROUP | --instance ID | --addr HOST:PORT | --file FILE)",
		Short: "Send chosen requests elsewhere; it ends by itself",
		Example: `  roadbed edge surgical add canary --path /playback --percent 0.1 --hash user --vip playback-canary
  roadbed edge surgical add ana --app playback --user u-17 --instance playback-v012-3 --force
  roadbed edge surgical add squeeze --app playback --instance playback-v012-3 --rate 50rps --for 10m`,
		Args: exactArgs("an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			var text string
			if file != "" {
				if text, err = readFile(cmd.InOrStdin(), file); err != nil {
					return err
				}
			} else {
				if cmd.Flags().Changed("percent") || r.Select.Hash != "" && len(r.Select.IDs) == 0 {
					r.Select.Percent = &percent // all of them, if nothing else is said
				}
				r.Match.Path.Prefix = path
				if fromHost != "" {
					r.Match.Hosts = []string{fromHost}
				}
				for _, f := range fields {
					name, value, ok := strings.Cut(f, ":")
					if !ok {
						return usageError{fmt.Errorf("--header %q: write 'Name: value'", f)}
					}
					value = strings.TrimSpace(value)
					r.Match.Headers = append(r.Match.Headers, edge.RouteValue{Name: name, Exact: &value})
				}
				r.Until = time.Now().Add(last).UTC().Truncate(time.Second)
				b, err := json.Marshal(r)
				if err != nil {
					return err
				}
				text = string(b)
			}
			at := "/api/v1/edge/surgical/" + url.PathEscape(args[0]) + "/check"
			var rule edge.SurgicalRule
			if err := client.Do(cmd.Context(), http.MethodPost, at, map[string]string{"text": text}, &rule); err != nil {
				return fmt.Errorf("nothing is changed: %w", err)
			}
			p := properties.Property{Key: edge.SurgicalProperty + args[0], Value: text, Source: "cli"}
			if err := client.Do(cmd.Context(), http.MethodPost, "/config/v1/properties?"+permits(glass), p, nil); err != nil {
				return fmt.Errorf("nothing is changed: %w", frozen(err))
			}
			until := "until it is removed"
			if !rule.Until.IsZero() {
				until = "until " + rule.Until.Local().Format("15:04:05")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s\nend it before with: roadbed edge surgical remove %[1]s\n", args[0], surgicalWords(rule), until)
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&r.To.VIP, "vip", "", "send them to this app")
	fs.StringVar(&r.To.ASG, "asg", "", "to this server group")
	fs.StringVar(&r.To.Instance, "instance", "", "to this one instance")
	fs.StringVar(&r.To.Addr, "addr", "", "to this address, host:port")
	fs.StringVar(&path, "path", "", "only requests below this path")
	fs.StringVar(&fromHost, "host", "", "only for this host, or *.name")
	fs.StringArrayVar(&fields, "header", nil, "only with this field, as 'Name: value'; may be repeated")
	fs.StringSliceVar(&r.Routes, "route", nil, "only on these routes")
	fs.StringSliceVar(&r.Apps, "app", nil, "only what would go to these apps")
	fs.Float64Var(&percent, "percent", 100, "share of requests; with --hash of those who ask")
	fs.StringVar(&r.Select.Hash, "hash", "", "who asks: user, client, header:NAME, cookie:NAME or query:NAME")
	fs.StringSliceVar(&r.Select.IDs, "user", nil, "only for these, by --hash, or users")
	fs.StringVar(&r.Rate, "rate", "", "at most so many, such as 50rps")
	fs.BoolVar(&r.Force, "force", false, "ask the instance even if it is not UP")
	fs.DurationVar(&last, "for", time.Hour, "when it ends by itself")
	fs.StringVar(&file, "file", "", "read the whole rule from a file, JSON or YAML; \"-\" for standard input")
	for _, f := range []string{"vip", "asg", "instance", "addr", "path", "host", "header", "route", "app", "percent", "hash", "user", "rate", "force", "for"} {
		cmd.MarkFlagsMutuallyExclusive("file", f) // the file says it all
	}
	breakGlass(cmd, &glass)
	return cmd
}

// surgicalWords says what a rule does.
func surgicalWords(r edge.SurgicalRule) string {
	who := "every request"
	if r.Select.Percent != nil {
		who = fmt.Sprintf("%g %% of requests", *r.Select.Percent)
		if r.Select.Hash != "" {
			who = fmt.Sprintf("%g %% by %s", *r.Select.Percent, r.Select.Hash)
		}
	}
	if len(r.Select.IDs) > 0 {
		who = cmp.Or(r.Select.Hash, "user") + " " + strings.Join(r.Select.IDs, ", ")
	}
	for _, w := range []struct{ word, text string }{
		{" of ", strings.Join(r.Apps, ", ")}, {" on ", strings.Join(r.Routes, ", ")}, {" at ", strings.Join(r.Match.Hosts, ", ")},
		{" below ", r.Match.Path.Prefix}, {" at ", r.Match.Path.Exact},
	} {
		if w.text != "" {
			who += w.word + w.text
		}
	}
	to := r.To
	where := strings.Join(slices.DeleteFunc([]string{to.VIP, to.ASG, to.Instance, to.Addr}, func(s string) bool { return s == "" }), " ")
	if r.Rate != "" {
		where += ", up to " + r.Rate
	}
	return who + " to " + where
}

func (c *cli) surgicalList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List surgical rules in the order they are tried",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"RULE", "STATE", "WHAT", "ENDS IN", "WHY"}, fetchList[edge.SurgicalView](client, "/api/v1/edge/surgical"), func(v edge.SurgicalView) []string {
				ends := "-"
				if !v.Until.IsZero() {
					ends = max(0, time.Until(v.Until).Round(time.Second)).String()
				}
				return []string{v.ID, v.State, surgicalWords(v.Rule), ends, orDash(v.Why)}
			})
		},
	}
	l.flags(cmd)
	return cmd
}

func (c *cli) surgicalRemove() *cobra.Command {
	var all, glass bool
	cmd := &cobra.Command{
		Use:   "remove (ID | --all)",
		Short: "End a surgical rule now",
		Args:  oneOrAll("ID", &all),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if all {
				list, err := fetchList[edge.SurgicalView](client, "/api/v1/edge/surgical")(cmd.Context())
				if err != nil {
					return err
				}
				for _, v := range list {
					args = append(args, v.ID)
				}
			}
			for _, id := range args {
				err := client.Do(cmd.Context(), http.MethodDelete, "/config/v1/properties/"+url.PathEscape(properties.ID(edge.SurgicalProperty+id, config.Scope{}))+"?"+permits(glass), nil, nil)
				var problem *api.Error
				if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
					return fmt.Errorf("there is no surgical rule %s; `roadbed edge surgical list` shows what there is", id)
				}
				if err != nil {
					return frozen(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", id)
			}
			if len(args) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "there are no surgical rules")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "end all of them")
	breakGlass(cmd, &glass)
	cmd.ValidArgsFunction = completer(c, listAt[edge.SurgicalView]("/api/v1/edge/surgical"), func(v edge.SurgicalView) string { return v.ID })
	return cmd
}
