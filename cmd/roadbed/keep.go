package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/spf13/cobra"
)

func (c *cli) backup() *cobra.Command {
	return &cobra.Command{
		Use:     "backup FILE",
		GroupID: "keep",
		Short:   "Save the platform's state to a file, verified",
		Long: `Save what the platform must not lose to a file: configuration, faults, server groups
and the change log. The copy is restored into a throw-away engine and compared before
it is handed out. The platform goes on meanwhile.`,
		Args: exactArgs("a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			n, err := writeWhole(args[0], func(w io.Writer) (int64, error) {
				body, err := client.Download(cmd.Context(), "/api/v1/engine/backup")
				if err != nil {
					return 0, err
				}
				defer body.Close()
				return io.Copy(w, body)
			})
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes, verified\n", args[0], n)
			return nil
		},
	}
}

// writeWhole writes a file that is either whole or not there.
func writeWhole(name string, fill func(io.Writer) (int64, error)) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".part-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if n, err = fill(f); err != nil {
		return 0, err
	}
	if err = f.Sync(); err != nil {
		return 0, err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return 0, err
	}
	return n, f.Close()
}

func (c *cli) restore() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "restore FILE",
		GroupID: "keep",
		Short:   "Put saved state into an empty state directory",
		Long: `Put the state that roadbed backup saved into a state directory that has none, with no
platform running on it. The next roadbed up --data starts from there.`,
		Args: exactArgs("a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			defer f.Close()
			m, err := engine.Restore(cmd.Context(), filepath.Join(data, "engine"), f)
			if err != nil {
				return fmt.Errorf("restore %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: state of %s restored, verified\n", data, m.Time.Local().Format("2006-01-02 15:04:05"))
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", ".roadbed", "the state directory to fill")
	return cmd
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: "keep",
		Short:   "Show which roadbed this is",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rev := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						rev = " " + s.Value[:min(12, len(s.Value))]
					}
				}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "roadbed %s%s %s %s/%s\n", version, rev, strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// guard is what the fleet starts beside its instances: it ends them when the platform is gone, however it went.
func guard() *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return fleet.Guard(cmd.InOrStdin()) },
	}
}
