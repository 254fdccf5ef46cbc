package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cellFlags are the flags of up and serve before they are checked.
type cellFlags struct {
	cfg                             cellConfig
	listen, tlsCert, tlsKey, config string
	logLevel, scopeOrder            string
	apiOf                           map[string]string
	eureka                          []string // KEY=VALUE
	peers                           []string
	myURL                           string
	tokenFile                       *string
	requireToken                    bool
}

func (f *cellFlags) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.cfg.data, "data", ".roadbed", "directory that keeps the platform's state")
	fs.StringVar(&f.config, "config", "", "YAML file with any of these flags as keys (default roadbed.yaml if there is one)")
	fs.StringVar(&f.listen, "listen", "127.0.0.1", "address to listen on; any but loopback needs --tls-cert, --tls-key and --token-file")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "PEM file with the certificate chain")
	fs.StringVar(&f.tlsKey, "tls-key", "", "PEM file with its private key")
	fs.IntVar(&f.cfg.apiPort, "api-port", usualAPIPort, "port of the console and the API")
	fs.IntVar(&f.cfg.edgePort, "edge-port", usualEdgePort, "port of the edge")
	e := &f.cfg.edgeTLS
	fs.IntVar(&e.port, "edge-tls-port", 0, "port at which the edge speaks TLS, with HTTP/2 (default none)")
	fs.StringVar(&e.certs, "edge-certs", "", "directory of the edge's certificates, NAME.crt with NAME.key or NAME.pem with both; read again when they change (default one is made, signed by itself)")
	fs.StringSliceVar(&e.acmeHosts, "edge-acme", nil, "names to get the edge's certificates for by ACME, from Let's Encrypt unless --edge-acme-directory is given (default none)")
	fs.StringVar(&e.acmeEmail, "edge-acme-email", "", "where the authority writes when something is wrong with a certificate (default nowhere)")
	fs.StringVar(&e.acmeDirectory, "edge-acme-directory", "", "URL of another ACME authority (default Let's Encrypt's)")
	fs.StringVar(&e.clientCA, "edge-client-ca", "", "PEM file of those who vouch for clients; each must then show a certificate (default clients need none)")
	fs.StringVar(&e.clientCRL, "edge-client-crl", "", "file or directory of lists of what those have revoked, in PEM or DER, one at least of each who has issued; read again when they change (default nobody looks)")
	fs.BoolVar(&e.clientOptional, "edge-client-optional", false, "clients without a certificate are let in all the same")
	fs.BoolVar(&e.http3, "edge-http3", false, "HTTP/3 at the UDP port of --edge-tls-port")
	fs.StringVar(&e.proxy, "edge-proxy-protocol", "off", "whether a balancer before the edge tells in the PROXY protocol who the client is: off, on or optional")
	fs.IntVar(&f.cfg.eurekaPort, "eureka-port", 8761, "port of the registry (Eureka) and of configuration")
	fs.IntVar(&f.cfg.atlasPort, "atlas-port", 7101, "port of telemetry (Atlas)")
	fs.IntVar(&f.cfg.offset, "port-offset", 0, "added to every port, so that platforms can run side by side")
	fs.StringVar(&f.cfg.region, "region", "local", "the region this platform is")
	fs.StringSliceVar(&f.cfg.zones, "zones", []string{"zone-a", "zone-b", "zone-c"}, "its zones, over which instances are spread")
	fs.StringSliceVar(&f.peers, "eureka-peers", nil, "base URLs of the registry's peers, Eureka servers or other platforms: http://user:password@host:8761/eureka/")
	fs.StringVar(&f.myURL, "eureka-url", "", "the base URL by which those peers reach this registry")
	fs.StringArrayVar(&f.eureka, "eureka", nil, "KEY=VALUE: a key of a Eureka server, such as server.enableSelfPreservation=false; again for each")
	fs.StringVar(&f.scopeOrder, "scope-order", "platform", "which of two properties is more specific: platform (a zone beats an app) or netflix (an app beats a zone, as in Archaius 2)")
	fs.BoolVar(&f.requireToken, "require-token", false, "clients on this machine, too, must bring the token of --token-file, as Eureka clients do in http://any:TOKEN@host:8761/eureka/")
	fs.StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
}

// resolve fills flags that were not given from the environment and the configuration file, and checks them all.
func (f *cellFlags) resolve(cmd *cobra.Command) (cellConfig, error) {
	outliveReaders()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2) // a process that does not listen would be ended by it
	fromFile, err := settingsFrom(cmd.Flags(), f.config)
	if err != nil {
		return cellConfig{}, err
	}
	c := f.cfg
	c.apiOf = f.apiOf
	c.replaceAsked = asked
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return c, usageError{fmt.Errorf("--log-level %s: use debug, info, warn or error", f.logLevel)}
	}
	if c.scopeOrder, err = properties.ParseOrder(f.scopeOrder); err != nil {
		return c, usageError{fmt.Errorf("--scope-order: %w", err)}
	}
	c.screen = &screen{out: cmd.OutOrStdout(), log: cmd.ErrOrStderr()}
	c.log = slog.New(slog.NewTextHandler(c.screen, &slog.HandlerOptions{Level: level}))
	flags := slices.Clone(f.eureka)
	if len(f.peers) > 0 {
		flags = append(flags, "client.serviceUrl.defaultZone="+strings.Join(f.peers, ","))
	}
	if f.myURL != "" {
		flags = append(flags, "myUrl="+f.myURL)
	}
	if c.eureka, err = eurekaSettings(fromFile, os.Environ(), flags, c.log); err != nil {
		return c, usageError{err}
	}
	for _, p := range []struct {
		flag string
		port int
	}{{"api-port", c.apiPort}, {"edge-port", c.edgePort}, {"edge-tls-port", c.edgeTLS.port}, {"eureka-port", c.eurekaPort}, {"atlas-port", c.atlasPort}} {
		if p.flag == "edge-tls-port" && p.port == 0 {
			continue // there is none
		}
		if at := p.port + c.offset; at < 1 || at > 65535 {
			return c, usageError{fmt.Errorf("--%s %d with --port-offset %d is port %d; ports are 1 to 65535", p.flag, p.port, c.offset, at)}
		}
	}
	if e := &c.edgeTLS; e.clientCRL != "" && e.clientCA == "" {
		return c, usageError{errors.New("--edge-client-crl goes with --edge-client-ca: those who vouch for clients")}
	}
	if e := &c.edgeTLS; e.port == 0 && (e.certs != "" || len(e.acmeHosts) > 0 || e.clientCA != "" || e.http3) {
		return c, usageError{errors.New("--edge-certs, --edge-acme, --edge-client-ca and --edge-http3 are of the edge's TLS; say with --edge-tls-port where that is, such as 443")}
	}
	if len(c.zones) == 0 || slices.Contains(c.zones, "") {
		return c, usageError{errors.New("--zones needs at least one name")}
	}
	data, err := filepath.Abs(c.data)
	if err != nil {
		return c, fmt.Errorf("--data %s: %w", c.data, err)
	}
	c.data = data
	c.door = api.Door{Host: f.listen, Local: f.requireToken}
	if c.door.Token, err = readToken(*f.tokenFile); err != nil {
		return c, err
	}
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return c, usageError{errors.New("--tls-cert and --tls-key go together: the certificate and its private key")}
	}
	if f.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return c, fmt.Errorf("--tls-cert %s and --tls-key %s: %w", f.tlsCert, f.tlsKey, err)
		}
		c.door.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	}
	if len(c.eureka.Peers) > 0 && c.eureka.MyURL == "" {
		c.eureka.MyURL = c.eurekaURL()
	}
	return c, c.door.Validate()
}

// settingsFrom sets every flag that was not given from ROADBED_<FLAG> or else from the YAML file. A key that is no
// flag is an error with a suggestion, except those of Eureka, which come back.
func settingsFrom(fs *pflag.FlagSet, file string) (eureka map[string]string, err error) {
	keys, err := readSettings(file)
	if err != nil {
		return nil, err
	}
	eureka = eurekaKeys(keys)
	delete(keys, "sidecar") // it has a verb of its own
	return eureka, applySettings(fs, keys)
}

// readSettings reads the YAML file. There is none by default.
func readSettings(file string) (map[string]any, error) {
	keys := make(map[string]any)
	b, err := os.ReadFile(envOr("ROADBED_CONFIG_FILE", cmp.Or(file, "roadbed.yaml")))
	switch {
	case err == nil:
		if err := yaml.Unmarshal(b, &keys); err != nil {
			return nil, fmt.Errorf("the configuration file cannot be read: %w", err)
		}
	case file != "" || !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("--config: %w", err)
	}
	return keys, nil
}

// applySettings sets every flag that was not given from ROADBED_<FLAG> or else from keys.
func applySettings(fs *pflag.FlagSet, keys map[string]any) error {
	for k := range keys {
		if fs.Lookup(k) == nil {
			return fmt.Errorf("the configuration file has the key %q, which is none%s", k, nearest(k, fs))
		}
	}
	var failed error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil {
			return
		}
		value, ok := os.LookupEnv("ROADBED_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")))
		from := "the environment"
		if !ok {
			var v any
			if v, ok = keys[f.Name]; !ok {
				return
			}
			from = "the configuration file"
			value = yamlText(v)
		}
		if err := fs.Set(f.Name, value); err != nil {
			failed = usageError{fmt.Errorf("%s from %s: %w", f.Name, from, err)}
		}
	})
	return failed
}

// yamlText is a value as a flag takes it.
func yamlText(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = fmt.Sprint(e)
	}
	return strings.Join(parts, ",")
}

// nearest returns a suggestion for a misspelt key.
func nearest(key string, fs *pflag.FlagSet) string {
	best, dist := "", 3
	fs.VisitAll(func(f *pflag.Flag) {
		if d := api.Distance(key, f.Name); d < dist {
			best, dist = f.Name, d
		}
	})
	if best == "" {
		return "; `roadbed up --help` lists them"
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func (c *cli) up() *cobra.Command {
	f := cellFlags{tokenFile: &c.tokenFile}
	var demo bool
	cmd := &cobra.Command{
		Use:     "up",
		GroupID: "run",
		Short:   "Start the whole platform in one process",
		Long: `Start the whole platform in one process: console, edge, registry, telemetry,
configuration and fleet. What ran when it ended runs again.

With --demo it also starts a streaming service: eight services in three zones,
and members who use them.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.resolve(cmd)
			if err != nil {
				return err
			}
			cfg.roles = allRoles
			return runUp(cmd.Context(), cmd.OutOrStdout(), cfg, demo, c)
		},
	}
	f.flags(cmd)
	cmd.Flags().BoolVar(&demo, "demo", false, "start the streaming service and its members too")
	return cmd
}

func (c *cli) serve() *cobra.Command {
	f := cellFlags{tokenFile: &c.tokenFile}
	var roles []string
	cmd := &cobra.Command{
		Use:     "serve --roles ROLE,...",
		GroupID: "run",
		Short:   "Start some of the platform's roles in this process",
		Long: `Start some of the platform's roles in this process. Several processes make a platform:

  roadbed serve --roles engine,registry,properties,telemetry,console \
      --api-of fleet=http://127.0.0.1:7072 --api-of edge=http://127.0.0.1:7071
  roadbed serve --roles edge  --api-port 7071
  roadbed serve --roles fleet --api-port 7072

Roles: ` + strings.Join(allRoles, ", ") + `.
On one machine processes find each other by the usual ports; the engine's token is in
the state directory they share.

On SIGUSR2 a process with no roles but edge and console starts the program anew, gives it
its sockets, and ends once the new one serves and its own requests are done: nobody is
refused. Sockets that systemd passes are taken too.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.resolve(cmd)
			if err != nil {
				return err
			}
			if len(roles) == 0 {
				return usageError{fmt.Errorf("--roles is missing; name one or more of %s", strings.Join(allRoles, ", "))}
			}
			for _, r := range roles {
				if !slices.Contains(allRoles, r) {
					return usageError{fmt.Errorf("--roles %s: there is no such role; use %s", r, strings.Join(allRoles, ", "))}
				}
			}
			slices.SortFunc(roles, func(a, b string) int { return slices.Index(allRoles, a) - slices.Index(allRoles, b) })
			cfg.roles = slices.Compact(roles)
			cell, err := openCell(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "serving %s, API %s\n", strings.Join(cfg.roles, ", "), cfg.api())
			return cell.wait(cmd.Context(), func() {})
		},
	}
	f.flags(cmd)
	fs := cmd.Flags()
	fs.StringSliceVar(&roles, "roles", nil, "roles to run: "+strings.Join(allRoles, ", "))
	fs.IntVar(&f.cfg.enginePort, "engine-port", 4222, "port of the engine for other processes of the platform")
	fs.StringVar(&f.cfg.engineURL, "engine-url", "", "the engine when it runs elsewhere (default nats://127.0.0.1 and --engine-port)")
	fs.StringVar(&f.cfg.registryURL, "registry-url", "", "registry and configuration when they run elsewhere (default http://127.0.0.1 and --eureka-port)")
	fs.StringVar(&f.cfg.telemetryURL, "telemetry-url", "", "telemetry when it runs elsewhere (default http://127.0.0.1 and --atlas-port)")
	fs.StringVar(&f.cfg.edgeURL, "edge-url", "", "the edge when it runs elsewhere")
	fs.StringToStringVar(&f.apiOf, "api-of", nil, "ROLE=URL: the API of the process that runs a role, passed on by this one")
	return cmd
}

// runUp starts the platform and says what a person in front of a terminal wants to know: what starts, where it is,
// when it is healthy, and how it does.
func runUp(ctx context.Context, out io.Writer, cfg cellConfig, demo bool, c *cli) error {
	began := time.Now()
	fmt.Fprintf(out, "roadbed %s, state in %s\n", version, cfg.data)
	cell, err := openCell(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
  console   %s
  edge      %s
  Eureka    %s/eureka/
  Atlas     %s
`, cfg.api(), cfg.edges(), cfg.registry(), cfg.telemetry())
	if cfg.door.TLS != nil {
		fmt.Fprintln(out, "\nother machines reach these by https and this one's name, with the token; the edge without")
	}
	if err := cell.healthy(); err != nil {
		fmt.Fprintf(out, "\nnothing can be changed for now: %v\n", err)
	} else {
		fmt.Fprintf(out, "\nplatform ready after %s\n", time.Since(began).Round(10*time.Millisecond))
	}

	client := &api.Client{Base: cfg.api(), Token: cfg.door.Token, Actor: c.actor, Why: "roadbed up --demo"}
	if demo {
		if err := startDemo(ctx, out, client); err != nil {
			return errors.Join(err, cell.close())
		}
	}
	watched, stopWatching := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		newTicker(cfg.screen, client, demo, began).run(watched)
	}()
	err = cell.wait(ctx, func() {
		stopWatching()
		<-done
		fmt.Fprintln(out, "stopping: instances drain first; interrupt again to end at once")
	})
	if err == nil {
		fmt.Fprintln(out, "stopped")
	}
	return err
}
