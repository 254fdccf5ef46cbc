package program

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/roadbed/roadbed/platform/edge/route"
)

// Prefix is what the properties that hold programs begin with; the program's name follows.
const Prefix = "edge.program."

// Document is a program as a property holds it, in JSON or YAML.
type Document struct {
	Kind   string `json:"kind" yaml:"kind" enum:"cel,starlark,wasm"`
	Phase  string `json:"phase,omitempty" yaml:"phase,omitempty" enum:"inbound,outbound,endpoint" doc:"when it runs; of WASM: inbound and outbound if empty, else inbound if empty"`
	Order  int    `json:"order,omitempty" yaml:"order,omitempty" doc:"among global programs, ascending"`
	Global bool   `json:"global,omitempty" yaml:"global,omitempty" doc:"it runs for every request, not only for routes that name it"`
	Guard  bool   `json:"guard,omitempty" yaml:"guard,omitempty" doc:"its failure fails the request, with 503: for what keeps requests out"`

	Text   string `json:"text,omitempty" yaml:"text,omitempty" doc:"of CEL and Starlark"`
	Base64 string `json:"base64,omitempty" yaml:"base64,omitempty" doc:"a WASM module, which may be compressed with gzip"`
	File   string `json:"file,omitempty" yaml:"file,omitempty" doc:"a WASM module that every edge has at that path"`
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty" doc:"of the file, in hexadecimal digits"`
	Body   bool   `json:"body,omitempty" yaml:"body,omitempty" doc:"the module's callbacks for bodies are called, with the whole body; else bodies stream past it"`
	Config string `json:"config,omitempty" yaml:"config,omitempty" doc:"what the module gets as its plugin configuration"`

	Draft  bool    `json:"draft,omitempty" yaml:"draft,omitempty" doc:"it is checked, and never run"`
	Canary *Canary `json:"canary,omitempty" yaml:"canary,omitempty" doc:"it runs for a share of who asks, and the previous one for the others"`

	Previous *Document `json:"previous,omitempty" yaml:"previous,omitempty" doc:"the version before, which takes over when this one fails"`
}

// Canary is the share of those who ask that gets a version first.
type Canary struct {
	Percent float64 `json:"percent" yaml:"percent" doc:"above 0, up to 100"`
}

// The kinds of program.
const (
	KindCEL      = "cel"
	KindStarlark = "starlark"
	KindWASM     = "wasm"
)

// maxModule is how large a WASM module may be, in bytes.
const maxModule = 16 << 20

// maxDocument is how long a document may be, in bytes.
const maxDocument = 1 << 20

// Parse reads a document. It fails if it has fields that nobody knows, or lacks one that it needs; it does not compile.
func Parse(text string) (*Document, error) {
	if len(text) > maxDocument {
		return nil, fmt.Errorf("the document has %d bytes; at most %d are allowed", len(text), maxDocument)
	}
	d := new(Document)
	if strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(d); err != nil {
			return nil, fmt.Errorf("the document is no program: %w", err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, errors.New("the document has something after its end")
		}
	} else if err := decodeYAML(text, d); err != nil {
		return nil, fmt.Errorf("the document is no program: %s", strings.SplitN(err.Error(), "\n", 2)[0])
	}
	if err := d.validate(); err != nil {
		return nil, err
	}
	if p := d.Previous; p != nil {
		if p.Previous != nil {
			return nil, errors.New("previous: it has a previous one itself; keep one")
		}
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("previous: %w", err)
		}
	}
	return d, nil
}

// decodeYAML reads the first document of a stream into d.
func decodeYAML(text string, d *Document) (err error) {
	defer func() {
		if p := recover(); p != nil { // as below, a fault of the decoder's
			err = fmt.Errorf("it cannot be read as YAML: %v", p)
		}
	}()
	f, err := route.ParseYAML(text)
	if err != nil {
		return err
	}
	if len(f.Docs) == 0 || f.Docs[0].Body == nil {
		return errors.New("it is empty")
	}
	return yaml.NodeToValue(f.Docs[0].Body, d, yaml.Strict())
}

func (d *Document) validate() error {
	switch d.Kind {
	case KindCEL, KindStarlark:
		if d.Text == "" || d.Base64 != "" || d.File != "" || d.SHA256 != "" || d.Config != "" || d.Body {
			return fmt.Errorf("a program of kind %s is its text; it needs that and has no base64, file, sha256, body or config", d.Kind)
		}
	case KindWASM:
		switch {
		case d.Text != "" || (d.Base64 == "") == (d.File == ""):
			return errors.New("a program of kind wasm has either base64 or file")
		case d.File != "" && len(d.SHA256) != 64:
			return errors.New("a file needs its sha256, so that every edge runs the same")
		case d.File == "" && d.SHA256 != "":
			return errors.New("sha256 goes with file")
		}
	default:
		return fmt.Errorf("kind %q: use cel, starlark or wasm", d.Kind)
	}
	switch d.Phase {
	case "", "inbound", "outbound":
	case "endpoint":
		if d.Kind == KindWASM {
			return errors.New("phase endpoint: a module answers on the way in, with proxy_send_local_response; use inbound")
		}
		if d.Kind == KindCEL {
			return errors.New("phase endpoint: an expression cannot answer; use starlark")
		}
		if d.Global {
			return errors.New("an endpoint cannot be global; routes name it")
		}
	default:
		return fmt.Errorf("phase %q: use inbound, outbound or endpoint", d.Phase)
	}
	if c := d.Canary; c != nil {
		if !(c.Percent > 0 && c.Percent <= 100) {
			return fmt.Errorf("canary.percent %v: use a number above 0, up to 100", c.Percent)
		}
		if d.Draft {
			return errors.New("draft and canary: keep one")
		}
	}
	return nil
}

// Version is what tells this program's versions apart: the first digits of a hash of what runs.
func (d *Document) Version() string {
	h := sha256.New()
	for _, s := range []string{d.Kind, d.Phase, d.Text, d.Base64, d.File, d.SHA256, d.Config, fmt.Sprint(d.Body)} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// String returns the document as a property holds it.
func (d *Document) String() string {
	b, err := json.Marshal(d)
	if err != nil {
		panic(err) // nothing in it can fail to be written
	}
	return string(b)
}

// module returns the bytes of a WASM module.
func (d *Document) module() ([]byte, error) {
	if d.File != "" {
		f, err := os.Open(d.File)
		if err != nil {
			return nil, fmt.Errorf("the module: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxModule+1))
		if err != nil {
			return nil, fmt.Errorf("the module: %w", err)
		}
		if len(b) > maxModule {
			return nil, fmt.Errorf("the module is larger than the %d MiB that are allowed", maxModule>>20)
		}
		if sum := sha256.Sum256(b); !strings.EqualFold(hex.EncodeToString(sum[:]), d.SHA256) {
			return nil, fmt.Errorf("%s has sha256 %x, not %s; bring the same file to every edge", d.File, sum, d.SHA256)
		}
		return b, nil
	}
	b, err := base64.StdEncoding.DecodeString(d.Base64)
	if err != nil {
		return nil, fmt.Errorf("base64: %w", err)
	}
	if !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("base64: %w", err)
	}
	if b, err = io.ReadAll(io.LimitReader(z, maxModule+1)); err != nil {
		return nil, fmt.Errorf("base64: %w", err)
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("the module is larger than the %d MiB that are allowed", maxModule>>20)
	}
	return b, nil
}
