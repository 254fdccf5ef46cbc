// Roadbed is the paved road for running services, as one program: discovery, gateway, telemetry, configuration,
// failure injection, a fleet of processes and a change log, with a console to watch them by.
//
//	roadbed up --demo                                  start the platform and a streaming service on it
//	roadbed run --name hello --port 8081 -- CMD        put your own service on the road
//	roadbed kill hello                                 break something
//
// This package only parses, wires and prints: every verb is a thin file, and what it does is in a room.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"os/user"
	"regexp"
	"strings"
	"syscall"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/spf13/cobra"
)

// Exit codes that scripts can use.
const (
	exitFailed = 1 // it did not work
	exitUsage  = 2 // the command line is wrong

	exitHurt    = 3 // an experiment hurt members
	exitUnknown = 4 // an experiment could not tell
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it; else the terminal is gone
		ending = append(ending, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ending...)
	defer stop()
	// The first signal asks politely; with the handler gone the second one ends the program at once.
	context.AfterFunc(ctx, stop)

	cmd := newRoot()
	ran, err := cmd.ExecuteContextC(ctx)
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return 0
	case errors.As(err, new(usageError)):
		fmt.Fprintf(os.Stderr, "roadbed: %v\nSee '%s --help'.\n", err, ran.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(os.Stderr, "roadbed: %v\n", err)
	if v := (verdictError{}); errors.As(err, &v) {
		return v.code
	}
	return exitFailed
}

// outliveReaders has the process go on when nobody reads what it prints any more, such as when the tee behind it has ended.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// number finds the complaint about a negative number that was taken for a flag.
var number = regexp.MustCompile(`unknown shorthand flag: .* in -[0-9.]`)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func newRoot() *cobra.Command {
	c := &cli{}
	root := &cobra.Command{
		Use:   "roadbed",
		Short: "The paved road for running services, as one program",
		Long: `roadbed runs a platform for services: discovery, gateway, telemetry, configuration,
failure injection, a fleet of processes and a change log, with a console to watch them by.

Start with:
  roadbed up --demo     the platform with a streaming service on it, in three zones
  roadbed up            the platform alone, for your own services
  roadbed run --help    put a service in any language on it`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          showHelp,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if number.MatchString(err.Error()) {
			err = fmt.Errorf("%w; what begins with - goes behind --, after all flags, as in %q", err, cmd.CommandPath()+" -- KEY -1")
		}
		return usageError{err}
	})
	f := root.PersistentFlags()
	f.StringVar(&c.base, "api", envOr("ROADBED_API", "http://127.0.0.1:7070"), "the platform's API (env ROADBED_API)")
	f.StringVar(&c.tokenFile, "token-file", os.Getenv("ROADBED_TOKEN_FILE"), "file with the platform's token (env ROADBED_TOKEN_FILE)")
	f.StringVar(&c.actor, "as", envOr("ROADBED_ACTOR", loginName()), "who the change log shall name (env ROADBED_ACTOR)")
	f.StringVar(&c.why, "why", "", "the reason, kept in the change log")

	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "change", Title: "Change and break:"}, &cobra.Group{ID: "keep", Title: "Keep:"})
	root.AddCommand(
		c.up(), c.serve(), c.run(), c.sidecar(), c.demo(),
		c.services(), c.clusters(), c.instances(), c.registry(), c.logs(), c.changes(),
		c.groups(), c.config(), c.rollouts(), c.edge(), c.regions(), c.faults(), c.fit(), c.kill(),
		c.backup(), c.restore(), c.version(), guard(),
	)
	root.SetHelpCommandGroupID("keep")
	root.SetCompletionCommandGroupID("keep")
	return root
}

// showHelp is what a command does that only has commands below it.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// noArgs refuses what nobody asked for, with a suggestion when a sub-command was misspelt.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance == 0 {
		cmd.SuggestionsMinimumDistance = 2 // letters; zero would suggest nothing
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usageError{fmt.Errorf("%s has no %q; did you mean %s?", cmd.CommandPath(), args[0], strings.Join(near, " or "))}
	}
	return usageError{fmt.Errorf("%s takes no %q", cmd.CommandPath(), args[0])}
}

// exactArgs wants exactly the named arguments.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError{fmt.Errorf("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))}
		case len(args) > len(names):
			return usageError{fmt.Errorf("%s does not understand %q", cmd.CommandPath(), args[len(names)])}
		}
		return nil
	}
}

// someArgs wants at least one argument.
func someArgs(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError{errors.New("name " + what)}
		}
		return nil
	}
}

// cli is what all verbs share: where the platform is and who is asking.
type cli struct {
	base, tokenFile, actor, why string
}

// client returns a client of the platform's API.
func (c *cli) client() (*api.Client, error) {
	if u, err := url.Parse(c.base); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError{fmt.Errorf("--api %s: write a URL, such as http://127.0.0.1:7070; ROADBED_API may say it as well", c.base)}
	}
	token, err := readToken(c.tokenFile)
	if err != nil {
		return nil, err
	}
	if token == "" {
		token = os.Getenv("ROADBED_TOKEN")
	}
	return &api.Client{Base: c.base, Token: token, Actor: c.actor, Why: c.why}, nil
}

func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if len(t) < 16 {
		return "", fmt.Errorf("the token in %s has %d characters; use at least 16, e.g. from `openssl rand -hex 32`", file, len(t))
	}
	return t, nil
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func loginName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "somebody"
}
