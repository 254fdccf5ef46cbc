// Command build bundles the console's sources in ../web into ../dist, which package console embeds. It runs esbuild as
// a library, so that nobody needs Node to build roadbed:
//
//	go run ./platform/console/build
//
// The bundle is committed. A test of this package makes it again and compares every byte, so that it is never out of
// date. The same sources give the same bytes on every machine.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// vendored are the npm packages in web/vendor: what an import of the name means there.
var vendored = []struct{ name, folder, module string }{
	{"preact/jsx-runtime", "preact@11.2.0", "jsx-runtime/dist/jsxRuntime.mjs"},
	{"preact/hooks", "preact@11.2.0", "hooks/dist/hooks.mjs"},
	{"preact", "preact@11.2.0", "dist/preact.mjs"},
	{"uplot/style", "uplot@1.6.32", "dist/uPlot.min.css"},
	{"uplot", "uplot@1.6.32", "dist/uPlot.esm.js"},
}

func main() {
	if err := run(filepath.Join("platform", "console")); err != nil {
		fmt.Fprintln(os.Stderr, "console/build:", err)
		os.Exit(1)
	}
}

func run(console string) error {
	files, err := bundle(filepath.Join(console, "web"))
	if err != nil {
		return err
	}
	dist := filepath.Join(console, "dist")
	if err := os.MkdirAll(dist, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dist, name), content, 0o644); err != nil {
			return err
		}
		fmt.Printf("%8d  %s\n", len(content), filepath.Join(dist, name))
	}
	there, err := os.ReadDir(dist)
	if err != nil {
		return err
	}
	for _, f := range there {
		if _, made := files[f.Name()]; made {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dist, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// bundle returns the files a browser is served, by name, made from the sources in web.
func bundle(web string) (map[string][]byte, error) {
	root, err := filepath.Abs(web)
	if err != nil {
		return nil, err
	}
	alias := make(map[string]string)
	for _, v := range vendored {
		alias[v.name] = filepath.Join(root, "vendor", v.folder, filepath.FromSlash(v.module))
	}
	result := api.Build(api.BuildOptions{
		AbsWorkingDir:       root,
		EntryPointsAdvanced: []api.EntryPoint{{InputPath: "src/main.tsx", OutputPath: "app"}},
		Outdir:              filepath.Join(root, "out"),
		Bundle:              true,
		Format:              api.FormatESModule,
		Target:              api.ES2022,
		MinifyWhitespace:    true,
		MinifyIdentifiers:   true,
		MinifySyntax:        true,
		LegalComments:       api.LegalCommentsNone, // licences.txt has them whole
		Charset:             api.CharsetUTF8,
		Alias:               alias,
		TsconfigRaw:         `{"compilerOptions":{"jsx":"react-jsx","jsxImportSource":"preact","target":"es2022"}}`,
		Banner:              map[string]string{"js": "/* roadbed console; /licences.txt names what else is in here */"},
		LogLevel:            api.LogLevelSilent,
	})
	if len(result.Errors) > 0 {
		return nil, errors.New(strings.Join(api.FormatMessages(result.Errors, api.FormatMessagesOptions{}), ""))
	}
	files := make(map[string][]byte)
	for _, f := range result.OutputFiles {
		files[filepath.Base(f.Path)] = f.Contents
	}
	for _, name := range []string{"index.html", "icon.svg"} {
		if files[name], err = os.ReadFile(filepath.Join(root, name)); err != nil {
			return nil, err
		}
	}
	files["licences.txt"], err = licences(root)
	return files, err
}

func licences(root string) ([]byte, error) {
	var out bytes.Buffer
	done := make(map[string]bool)
	for _, v := range vendored {
		if done[v.folder] {
			continue
		}
		done[v.folder] = true
		text, err := os.ReadFile(filepath.Join(root, "vendor", v.folder, "LICENSE"))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s\n\n%s\n\n", v.folder, bytes.TrimSpace(text))
	}
	return out.Bytes(), nil
}
