package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/service/sidecar"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// sidecarFlags are the flags of sidecar before they are checked.
type sidecarFlags struct {
	cfg                                 sidecar.Config
	file, compat, criticality, logLevel string
	port, apiPort                       int
	registry                            []string

	configURL, telemetry, cache, region, zone, host string
}

func (c *cli) sidecar() *cobra.Command {
	var f sidecarFlags
	cmd := &cobra.Command{
		Use:     "sidecar --app NAME --port PORT [-- COMMAND [ARG ...]]",
		GroupID: "run",
		Short:   "Stand beside a service of any language and put it on the road",
		Long: `Stand beside a service that runs already, in any language: register it, follow its health,
carry its calls to others and, with --inbound, those of others to it.

The service calls others through the sidecar as a proxy, by name:

  http_proxy=http://127.0.0.1:7080 curl http://recommendations/users/42

They are balanced over the instances, retried within a budget, and broken off when they fail.

With a COMMAND the sidecar starts the service itself, gives it a free port as $PORT and
itself as $http_proxy, and ends with it. Below the fleet both get what they need:

  roadbed run --name shop --port 9000 --self-registers -- roadbed sidecar -- node server.js

Every flag is also a key below "sidecar" in roadbed.yaml and a variable, ROADBED_APP for --app.
Prana's flags -p, -a and -c work, and --compat prana answers as it did.`,
		Example: `  roadbed sidecar --app shop --port 3000
  roadbed sidecar --app shop --port 3000 --inbound 127.0.0.1:8079 --health http://127.0.0.1:3000/live
  roadbed sidecar -a shop -p 8078 -c prana.properties --compat prana`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); n > 0 || n < 0 && len(args) > 0 {
				return noArgs(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			outliveReaders()
			f.cfg.Command = args
			cfg, err := f.resolve(cmd)
			if err != nil {
				return err
			}
			s, err := sidecar.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			at := s.Addr()
			if !strings.HasPrefix(cfg.Listen, "unix:") {
				at = "http://" + at
			}
			fmt.Fprintf(out, "beside %s at %s\n  calls out  %s\n  registered %s\n", cfg.App, s.Neighbour(), at, s.Registered())
			return s.Wait()
		},
	}
	f.flags(cmd.Flags())
	for name, values := range map[string][]string{"compat": {"prana"}, "criticality": {"CRITICAL", "DEGRADED", "BEST_EFFORT", "BULK"}, "log-level": {"debug", "info", "warn", "error"}} {
		cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
	}
	return cmd
}

func (f *sidecarFlags) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&f.cfg.App, "app", "a", "", "the service's name")
	fs.IntVar(&f.port, "port", 0, "where the service listens, on 127.0.0.1")
	fs.StringVar(&f.cfg.To, "to", "", "where the service listens, HOST:PORT, in place of --port")
	fs.StringVar(&f.cfg.Listen, "listen", sidecar.Listen, "where the service finds the sidecar: an address on loopback, or unix:/path")
	fs.IntVarP(&f.apiPort, "http-port-api", "p", 0, "the port of --listen alone, as Prana has it")
	fs.StringVar(&f.cfg.Inbound, "inbound", "", "where others reach the service through the sidecar, PORT or HOST:PORT; that is registered then")
	fs.StringVar(&f.cfg.Health, "health", "", "URL that answers 200 while the service is well (default: its /healthcheck, or any answer at / that is no server error)")
	fs.StringVar(&f.cfg.VIP, "vip", "", "the VIP by which Eureka's clients find it (default: the name)")
	fs.StringVar(&f.cfg.Version, "app-version", "", "its version, shown in the registry")
	fs.StringVar(&f.criticality, "criticality", "CRITICAL", "CRITICAL, DEGRADED, BEST_EFFORT or BULK")
	fs.StringVarP(&f.file, "config", "c", "", "a file of Java properties, as Prana has it, or a YAML file with the key sidecar (default roadbed.yaml if there is one)")
	fs.StringVar(&f.compat, "compat", "", "prana: errors are answered with status 200, as Prana did")
	fs.StringSliceVar(&f.registry, "registry", []string{"http://127.0.0.1:8761"}, "base URLs of the registry; - is none")
	fs.StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
	fs.StringVar(&f.configURL, "config-url", "http://127.0.0.1:8761", "base URL of configuration (env ROADBED_CONFIG); - is none")
	fs.StringVar(&f.telemetry, "telemetry", "http://127.0.0.1:7101", "base URL of telemetry; - is none")
	fs.StringVar(&f.cache, "cache", "", "directory for what was last known, so that a start without the platform serves too")
	fs.StringVar(&f.region, "region", "", "the region it runs in")
	fs.StringVar(&f.zone, "zone", "", "the zone it runs in")
	fs.StringVar(&f.host, "host", "127.0.0.1", "the host at which others find it")
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "app-name" { // Prana's
			name = "app"
		}
		return pflag.NormalizedName(name)
	})
}

// resolve fills flags that were not given, and makes a configuration of them. What package service reads of the
// environment it puts there.
func (f *sidecarFlags) resolve(cmd *cobra.Command) (c sidecar.Config, err error) {
	fs := cmd.Flags()
	var props map[string]string
	yamlFile := f.file
	if ext := filepath.Ext(f.file); f.file != "" && ext != ".yaml" && ext != ".yml" {
		text, err := os.ReadFile(f.file)
		if err != nil {
			return c, fmt.Errorf("--config: %w", err)
		}
		if props, err = sidecar.ParseProperties(string(text)); err != nil {
			return c, fmt.Errorf("--config %s: %w", f.file, err)
		}
		yamlFile = ""
	}
	keys, err := readSettings(yamlFile)
	if err != nil {
		return c, err
	}
	own, ok := keys["sidecar"].(map[string]any)
	if !ok && keys["sidecar"] != nil {
		return c, errors.New("the configuration file has a key sidecar without keys below it; write the flags there, as in sidecar: {app: shop, port: 3000}")
	}
	var pranas pranaKeys
	if err := pranas.read(props); err != nil {
		return c, fmt.Errorf("--config %s: %w", f.file, err)
	}
	given := func(flag string) bool { return fs.Changed(flag) }
	if v, ok := os.LookupEnv("ROADBED_CONFIG"); ok && !given("config-url") {
		f.configURL = v
	}
	if err := applySettings(fs, own); err != nil {
		return c, err
	}
	if !given("app") {
		f.cfg.App = pranas.app
	}
	if !given("vip") {
		f.cfg.VIP = pranas.vip
	}
	if !given("registry") && len(pranas.registry) > 0 {
		f.registry = pranas.registry
	}
	if !given("port") && !given("to") {
		f.port = pranas.port
	}

	c = f.cfg
	c.Properties = props
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return c, usageError{fmt.Errorf("--log-level %s: use debug, info, warn or error", f.logLevel)}
	}
	c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	if c.App == "" {
		return c, usageError{errors.New("--app is missing: name the service as others shall call it")}
	}
	c.App = strings.ToLower(c.App)
	if c.Criticality, err = roadbed.ParseCriticality(f.criticality); err != nil {
		return c, usageError{fmt.Errorf("--criticality: %w", err)}
	}
	switch strings.ToLower(f.compat) {
	case "":
	case "prana":
		c.Prana = true
	default:
		return c, usageError{fmt.Errorf("--compat %s: there is prana, and nothing else", f.compat)}
	}
	switch {
	case f.port != 0 && c.To != "":
		return c, usageError{errors.New("--port and --to both say where the service listens; give one")}
	case f.port != 0:
		c.To = net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port))
	case c.To == "" && len(c.Command) == 0:
		return c, usageError{errors.New("--port is missing: where does the service listen?")}
	}
	if f.apiPort != 0 {
		if c.Listen != sidecar.Listen {
			return c, usageError{errors.New("-p and --listen both say where the sidecar listens; give one")}
		}
		c.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(f.apiPort))
	}
	if len(c.Command) > 0 && !given("listen") && f.apiPort == 0 {
		c.Listen = "127.0.0.1:0" // the command is told, and there may be many
	}
	if port := os.Getenv("PORT"); port != "" && c.Inbound == "" && os.Getenv("ROADBED_INSTANCE") != "" {
		c.Inbound = port // the fleet runs it, and sends callers there
	}
	if _, err := strconv.Atoi(c.Inbound); err == nil {
		c.Inbound = net.JoinHostPort(f.host, c.Inbound)
	}
	return c, f.setenv(c)
}

// setenv puts what package service reads into the environment.
func (f *sidecarFlags) setenv(c sidecar.Config) error {
	none := func(v string) string {
		if v == "-" {
			return ""
		}
		return v
	}
	var failed error
	for name, value := range map[string]string{
		"ROADBED_REGISTRY": none(strings.Join(f.registry, ",")), "ROADBED_CONFIG": none(f.configURL), "ROADBED_TELEMETRY": none(f.telemetry),
		"ROADBED_CACHE": f.cache, "ROADBED_REGION": f.region, "ROADBED_ZONE": f.zone, "ROADBED_HOST": f.host,
		"ROADBED_APP": c.App, "ROADBED_CRITICALITY": c.Criticality.String(), "PORT": "",
	} {
		failed = errors.Join(failed, os.Setenv(name, value))
	}
	return failed
}

// pranaKeys are what a file of Prana says of the service; the rest of it are properties.
type pranaKeys struct {
	app, vip string
	port     int
	registry []string
}

func (p *pranaKeys) read(props map[string]string) error {
	p.app, p.vip = props["eureka.name"], props["eureka.vipAddress"]
	if text := props["eureka.port"]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("eureka.port=%s is no port", text)
		}
		p.port = n
	}
	for _, key := range []string{"eureka.serviceUrl.defaultZone", "eureka.serviceUrl.default"} {
		for url := range strings.SplitSeq(props[key], ",") {
			if url = strings.TrimSpace(url); url != "" {
				p.registry = append(p.registry, url)
			}
		}
		if len(p.registry) > 0 {
			break
		}
	}
	return nil
}
