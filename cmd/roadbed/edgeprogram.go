package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
)

func (c *cli) programs() *cobra.Command {
	cmd := &cobra.Command{
		Use: "program", Aliases: []string{"programs"}, Short: "Filters of your own at the edge: CEL, Starlark, WASM",
		Long: `A program is a filter that the edge runs while it serves: an expression in CEL, a script in
Starlark, or a WASM module in proxy-wasm's ABI. Routes name it, or it runs for every request.
A new version can run for a share of who asks first; one that fails goes back by itself.

A program is the property edge.program.NAME, so that each change is in the change log.`,
		Args: noArgs, RunE: showHelp,
	}
	do := func(verb, short, done string, change func(name string, d *edge.ProgramDocument) (*edge.ProgramDocument, error)) *cobra.Command {
		var glass bool
		sub := &cobra.Command{
			Use: verb + " NAME", Short: short, Args: exactArgs("a NAME"), ValidArgsFunction: c.completePrograms(),
			RunE: func(cmd *cobra.Command, args []string) error {
				client, err := c.client()
				if err != nil {
					return err
				}
				d, err := storedProgram(cmd.Context(), client, args[0])
				if err != nil {
					return err
				}
				if d == nil {
					return fmt.Errorf("there is no program %s; `roadbed edge program list` shows those that are", args[0])
				}
				if d, err = change(args[0], d); err != nil {
					return fmt.Errorf("nothing is changed: %w", err)
				}
				if err := storeProgram(cmd, client, args[0], d, glass); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], done)
				return err
			},
		}
		breakGlass(sub, &glass)
		return sub
	}
	cmd.AddCommand(c.programPut(), c.programList(), c.programCheck(),
		do("promote", "Have the newest version run for everybody", "its newest version runs for everybody", func(_ string, d *edge.ProgramDocument) (*edge.ProgramDocument, error) {
			if d.Canary == nil && !d.Draft {
				return nil, errors.New("it runs for everybody already")
			}
			d.Canary, d.Draft = nil, false
			return d, nil
		}),
		do("rollback", "Have the former version run again", "its former version runs for everybody", func(name string, d *edge.ProgramDocument) (*edge.ProgramDocument, error) {
			if d.Previous == nil {
				return nil, fmt.Errorf("it has no former version; to be rid of it: roadbed config delete %s%s", edge.ProgramProperty, name)
			}
			return d.Previous, nil
		}))
	return cmd
}

func (c *cli) completePrograms() cobra.CompletionFunc {
	return completer(c, listAt[edge.ProgramView]("/api/v1/edge/programs"), func(p edge.ProgramView) string { return p.Name })
}

// storedProgram returns the document of the program of that name; nil if there is none.
func storedProgram(ctx context.Context, client *api.Client, name string) (*edge.ProgramDocument, error) {
	text, err := propertyValue(ctx, client, edge.ProgramProperty+name)
	if err != nil || text == "" {
		return nil, err
	}
	d, err := edge.ParseProgram(text)
	if err != nil {
		return nil, fmt.Errorf("the property %s%s: %w", edge.ProgramProperty, name, err)
	}
	return d, nil
}

// storeProgram checks a document at the edge and makes it the property.
func storeProgram(cmd *cobra.Command, client *api.Client, name string, d *edge.ProgramDocument, glass bool) error {
	if _, err := checkProgram(cmd.Context(), client, name, d.String()); err != nil {
		return fmt.Errorf("nothing is changed: %w", err)
	}
	p := properties.Property{Key: edge.ProgramProperty + name, Value: d.String(), Source: "cli"}
	if err := client.Do(cmd.Context(), http.MethodPost, "/config/v1/properties?"+permits(glass), p, nil); err != nil {
		return fmt.Errorf("nothing is changed: %w", frozen(err))
	}
	return nil
}

func checkProgram(ctx context.Context, client *api.Client, name, text string) (out edge.CheckedProgram, err error) {
	err = client.Do(ctx, http.MethodPost, "/api/v1/edge/programs/check", map[string]string{"name": name, "document": text}, &out)
	return out, err
}

// inlineModule is how large a compressed WASM module may be to stand in the property itself, in bytes. A property holds
// 64 KiB, of which base64 takes a quarter, and the former version stands there, too.
const inlineModule = 20 << 10

// readProgram reads a file: a document in JSON or YAML, or the program itself by the ending of its name.
func readProgram(cmd *cobra.Command, name string) (d *edge.ProgramDocument, whole bool, err error) {
	text, err := readFile(cmd.InOrStdin(), name)
	if err != nil {
		return nil, false, err
	}
	switch ending := filepath.Ext(name); ending {
	case ".star", ".bzl", ".py":
		return &edge.ProgramDocument{Kind: "starlark", Text: text}, false, nil
	case ".cel":
		return &edge.ProgramDocument{Kind: "cel", Text: strings.TrimSpace(text)}, false, nil
	case ".wasm":
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write([]byte(text)) //nolint:errcheck // memory never fails
		z.Close()             //nolint:errcheck // as before
		if b.Len() <= inlineModule {
			return &edge.ProgramDocument{Kind: "wasm", Base64: base64.StdEncoding.EncodeToString(b.Bytes())}, false, nil
		}
		path, err := filepath.Abs(name)
		if err != nil {
			return nil, false, err
		}
		sum := sha256.Sum256([]byte(text))
		fmt.Fprintf(cmd.ErrOrStderr(), "mind: the module is too large for a property; every edge must have it at %s\n", path)
		return &edge.ProgramDocument{Kind: "wasm", File: path, SHA256: hex.EncodeToString(sum[:])}, false, nil
	case ".json", ".yaml", ".yml", "":
		d, err := edge.ParseProgram(text)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", name, err)
		}
		return d, true, nil
	default:
		return nil, false, usageError{fmt.Errorf("%s: name it .star, .cel or .wasm, or .yaml for a document", name)}
	}
}

func (c *cli) programPut() *cobra.Command {
	var flags edge.ProgramDocument
	var canary float64
	var config string
	var glass bool
	cmd := &cobra.Command{
		Use:   "put NAME FILE",
		Short: "Put a program into force, or a new version of one",
		Long: `Check a program and put it into force; what ran before becomes its former version. FILE is the
program itself (.star, .cel, .wasm) or a document (.yaml, .json); "-" is a document on standard
input. What the flags do not say stays as it was, but for --canary and --draft: without them the
new version runs for everybody.`,
		Example: `  roadbed edge program put stamp stamp.star --global --canary 10
  roadbed edge program put only-tv only-tv.cel --guard
  roadbed edge program put auth auth.wasm --config auth.json`,
		Args: exactArgs("a NAME", "a FILE"), ValidArgsFunction: c.completePrograms(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			d, whole, err := readProgram(cmd, args[1])
			if err != nil {
				return err
			}
			was, err := storedProgram(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			set := cmd.Flags().Changed
			if was != nil && !whole {
				d.Phase, d.Order, d.Global, d.Guard = was.Phase, was.Order, was.Global, was.Guard
				if was.Kind == d.Kind {
					d.Config, d.Body = was.Config, was.Body
				}
			}
			if set("phase") {
				d.Phase = flags.Phase
			}
			if set("order") {
				d.Order = flags.Order
			}
			if set("global") {
				d.Global = flags.Global
			}
			if set("guard") {
				d.Guard = flags.Guard
			}
			if set("body") {
				d.Body = flags.Body
			}
			if set("draft") {
				d.Draft = flags.Draft
			}
			if set("canary") {
				d.Canary = &edge.ProgramCanary{Percent: canary}
			}
			if config != "" {
				if d.Config, err = readFile(cmd.InOrStdin(), config); err != nil {
					return err
				}
			}
			if was != nil && d.Previous == nil {
				former := *was
				if was.Canary != nil || was.Draft { // what ran for everybody is the one before
					former = edge.ProgramDocument{}
					if was.Previous != nil {
						former = *was.Previous
					}
				}
				if former.Kind != "" && former.Version() != d.Version() {
					former.Previous = nil
					d.Previous = &former
				}
			}
			if err := storeProgram(cmd, client, args[0], d, glass); err != nil {
				return err
			}
			said := "runs for every route that names it"
			switch {
			case d.Draft:
				said = "is a draft and does not run; roadbed edge program promote " + args[0]
			case d.Canary != nil:
				said = fmt.Sprintf("runs for %g %% of who asks; roadbed edge program promote %s, or rollback", d.Canary.Percent, args[0])
			case d.Global:
				said = "runs for every request"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: version %s %s\n", args[0], d.Version(), said)
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&flags.Phase, "phase", "", "inbound, outbound, or endpoint of Starlark")
	fs.IntVar(&flags.Order, "order", 0, "among global programs, ascending")
	fs.BoolVar(&flags.Global, "global", false, "run it for every request")
	fs.BoolVar(&flags.Guard, "guard", false, "its failure fails the request")
	fs.BoolVar(&flags.Body, "body", false, "give a WASM module the whole bodies")
	fs.BoolVar(&flags.Draft, "draft", false, "only keep it; it does not run")
	fs.Float64Var(&canary, "canary", 0, "run it for this percentage of who asks")
	fs.StringVar(&config, "config", "", "file with a WASM module's configuration")
	breakGlass(cmd, &glass)
	cmd.RegisterFlagCompletionFunc("phase", cobra.FixedCompletions([]string{"inbound", "outbound", "endpoint"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

func (c *cli) programCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a program, and change nothing",
		Args:  exactArgs("a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			d, _, err := readProgram(cmd, args[0])
			if err != nil {
				return err
			}
			out, err := checkProgram(cmd.Context(), client, "program", d.String())
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is right; it would be version %s\n", args[0], out.Version)
			return err
		},
	}
}

func (c *cli) programList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List programs, how often each version ran and failed",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return repeat(cmd, &l, func(ctx context.Context) ([]edge.ProgramView, error) {
				return listAt[edge.ProgramView]("/api/v1/edge/programs")(ctx, client)
			}, func(out io.Writer, all []edge.ProgramView) error {
				var rows [][]string
				for _, p := range all {
					for _, v := range p.Versions {
						rows = append(rows, []string{p.Name, v.Version, v.State, v.Kind, p.Phase, fmt.Sprintf("%g %%", v.Percent), fmt.Sprint(v.Runs), fmt.Sprint(v.Failures),
							v.Mean.Round(100 * time.Nanosecond).String(), orDash(firstLine(v.Last))})
					}
					if p.Refused != "" {
						rows = append(rows, []string{p.Name, "-", "REFUSED", "-", "-", "-", "-", "-", "-", firstLine(p.Refused)})
					}
				}
				return printTable(out, []string{"PROGRAM", "VERSION", "STATE", "KIND", "PHASE", "SHARE", "RUNS", "FAILED", "MEAN", "LAST ERROR"}, rows, func(r []string) []string { return r })
			})
		},
	}
	l.flags(cmd)
	return cmd
}
