package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBundleIsCurrent(t *testing.T) {
	want, err := bundle(filepath.Join("..", "web"))
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadDir(filepath.Join("..", "dist"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range have {
		if _, ok := want[f.Name()]; !ok {
			t.Errorf("dist/%s is not made from web; run go run ./platform/console/build", f.Name())
		}
	}
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join("..", "dist", name))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("dist/%s is not what web gives now (%v, %d bytes, want %d); run go run ./platform/console/build", name, err, len(got), len(content))
		}
	}
}

func TestBundleIsSmall(t *testing.T) {
	files, err := bundle(filepath.Join("..", "web"))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 260_000
	total := 0
	for _, name := range []string{"index.html", "app.js", "app.css", "icon.svg"} {
		total += len(files[name])
	}
	if total >= limit {
		t.Errorf("a browser loads %d bytes, want less than %d", total, limit)
	}
}

func TestBundleNamesTheLicencesOfWhatItContains(t *testing.T) {
	files, err := bundle(filepath.Join("..", "web"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vendored {
		if !strings.Contains(string(files["licences.txt"]), v.folder) {
			t.Errorf("licences.txt does not name %s", v.folder)
		}
	}
	if n := strings.Count(string(files["licences.txt"]), "Permission is hereby granted"); n != 2 {
		t.Errorf("licences.txt holds %d licence texts, want 2", n)
	}
}

func TestBundleOfBrokenSourceSaysWhere(t *testing.T) {
	web := t.TempDir()
	if err := os.MkdirAll(filepath.Join(web, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(web, "src", "main.tsx"), []byte("let x = ;"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle(web); err == nil || !strings.Contains(err.Error(), "src/main.tsx:1:8") {
		t.Errorf("got %v, want an error at src/main.tsx:1:8", err)
	}
}
