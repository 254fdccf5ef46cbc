package roadbed_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/roadbed/roadbed"

// sdk is what services link; floors are the rooms of the platform, lowest first. ARCHITECTURE.md draws them.
var (
	sdk    = []string{"service", "discovery", "ipc", "fault", "config", "meter", "cache"}
	floors = [][]string{
		{"engine", "api"},
		{"ledger", "identity"},
		{"registry", "properties", "telemetry"},
		{"edge", "cachenode", "fleet", "bake"},
		{"canary", "remedy", "region"},
		{"delivery", "chaos", "migrate"},
		{"console"},
	}
	topLevel = append([]string{"platform", "cmd", "examples"}, sdk...)
)

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestRoomsImportOnlyWhatTheirFloorAllows(t *testing.T) {
	pkgs := listPackages(t)
	if len(pkgs) < 10 {
		t.Fatalf("go list found %d packages; the test looks in the wrong place", len(pkgs))
	}
	for _, p := range pkgs {
		wing, room, _ := place(p.ImportPath)
		if wing != "" && !slices.Contains(topLevel, wing) {
			t.Errorf("%s: nothing but the SDK, platform, cmd and examples belongs at the top level", p.ImportPath)
		}
		if wing == "platform" && floor(room) < 0 {
			t.Errorf("%s: no floor lists the room %q", p.ImportPath, room)
		}
		for _, imp := range p.Imports {
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				continue
			}
			iwing, iroom, iinner := place(imp)
			switch {
			case wing == "" && iwing != "":
				t.Errorf("the words import %s; they import only the standard library", imp)
			case slices.Contains(sdk, wing) && iwing == "platform":
				t.Errorf("%s imports %s; the SDK never imports the platform", p.ImportPath, imp)
			case wing == "platform" && iwing == "platform" && room != iroom && floor(iroom) >= floor(room):
				t.Errorf("%s (floor %d) imports %s (floor %d); rooms import lower floors only", p.ImportPath, floor(room), imp, floor(iroom))
			case iwing == "platform" && iinner && (wing != "platform" || room != iroom):
				t.Errorf("%s imports %s; nobody reaches into a room's subpackages", p.ImportPath, imp)
			case iwing == "cmd":
				t.Errorf("%s imports %s; cmd only wires", p.ImportPath, imp)
			}
		}
	}
}

func TestServicesLinkNoServer(t *testing.T) {
	heavy := []string{"github.com/nats-io/", "github.com/danielgtaylor/huma", "github.com/spf13/cobra", "github.com/evanw/esbuild", module + "/platform"}
	checked := 0
	for _, p := range listPackages(t) {
		wing, _, _ := place(p.ImportPath)
		if !slices.Contains(sdk, wing) {
			continue
		}
		checked++
		for _, dep := range p.Deps {
			for _, h := range heavy {
				if strings.HasPrefix(dep, h) {
					t.Errorf("a service that links %s links %s", p.ImportPath, dep)
				}
			}
			if strings.HasPrefix(dep, "google.golang.org/grpc") && p.ImportPath != module+"/ipc/grpc" {
				t.Errorf("a service that links %s links gRPC, which only ipc/grpc may bring", p.ImportPath)
			}
		}
	}
	if checked < 5 {
		t.Errorf("checked %d SDK packages, want at least 5", checked)
	}
}

func TestTheBinaryLinksNoBundler(t *testing.T) {
	for _, p := range listPackages(t) {
		if p.ImportPath != module+"/cmd/roadbed" {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "github.com/evanw/esbuild") || strings.HasPrefix(dep, "testing") {
				t.Errorf("the binary links %s", dep)
			}
		}
		return
	}
	t.Error("there is no cmd/roadbed")
}

// place takes an import path apart: the top-level folder, the room in platform, and whether it lies inside a room.
func place(path string) (wing, room string, inner bool) {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, module), "/"), "/")
	if parts[0] != "platform" || len(parts) == 1 {
		return parts[0], "", false
	}
	return "platform", parts[1], len(parts) > 2
}

func floor(room string) int {
	return slices.IndexFunc(floors, func(f []string) bool { return slices.Contains(f, room) })
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestMakeFuzzNamesEveryPackageWithAFuzzTargetOnce(t *testing.T) {
	text, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(strings.ReplaceAll(string(text), "\\\n", " "), "\nFUZZED ")
	list, _, _ = strings.Cut(list, "\n")
	named := strings.Fields(list)
	if len(named) < 10 || named[0] != "=" {
		t.Fatalf("Makefile lists %q as FUZZED; the test looks in the wrong place", named)
	}
	named = named[1:]
	slices.Sort(named)
	var want []string
	err = filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || len(file) > 1 && d.Name()[0] == '.'):
			return fs.SkipDir
		case !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(file)
		if dir := filepath.ToSlash(filepath.Dir(file)); bytes.Contains(text, []byte("\nfunc Fuzz")) {
			want = append(want, "./"+dir)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if want = slices.Compact(want); !slices.Equal(named, want) {
		t.Errorf("Makefile has FUZZED\n%q, want\n%q", named, want)
	}
}
