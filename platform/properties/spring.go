package properties

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

// springPrefix is where the read API of Spring Cloud Config Server begins. A Spring Boot application names it so:
//
//	spring.config.import=configserver:http://127.0.0.1:8761/config/spring
//
// Its application is the appId, its profile the env, and its label, if it has one, is stack:region:zone.
const springPrefix = "/config/spring/"

// springJSON is the media type by which newer clients ask; both get the same body.
const springJSON = "application/vnd.spring-cloud.config-server.v2+json"

// springEnvironment is the answer to /{application}/{profiles}[/{label}].
type springEnvironment struct {
	Name     string         `json:"name"`
	Profiles []string       `json:"profiles"`
	Label    *string        `json:"label"`
	Version  string         `json:"version"` // the index's revision
	State    *string        `json:"state"`
	Sources  []springSource `json:"propertySources"` // the most specific first
}

// springSource is what the records of one scope say, less what others of just that rank say better.
type springSource struct {
	Name   string            `json:"name"`
	Source map[string]string `json:"source"`

	types map[string]string // by key
}

// getSpring answers
//
//	/{application}/{profiles}[/{label}]
//	[/{label}]/{application}-{profile}.properties, .yml, .yaml or .json
//
// An application nobody heard of gets what is for everybody; 404 is for a path of another form.
func (s *Store) getSpring(w http.ResponseWriter, r *http.Request) error {
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), springPrefix), "/")
	for i, p := range parts {
		text, err := url.PathUnescape(p)
		if err != nil {
			return api.Problem(http.StatusBadRequest, "the path has a percent sign that begins no escape: %v", err)
		}
		parts[i] = strings.ReplaceAll(text, "(_)", "/") // Spring's way to put a slash into a segment
	}
	if parts[len(parts)-1] == "" {
		return notSpring(r)
	}
	switch {
	case len(parts) <= 2 && springFile(parts[len(parts)-1]) != "":
		return s.getSpringFile(w, r, parts)
	case len(parts) == 2 || len(parts) == 3:
		env, err := s.springEnvironment(r, parts[0], parts[1], parts[2:]...)
		if err != nil {
			return err
		}
		body, err := json.Marshal(env)
		if err != nil {
			return fmt.Errorf("encode the properties: %w", err)
		}
		contentType := "application/json"
		if strings.Contains(r.Header.Get("Accept"), springJSON) {
			contentType = springJSON
		}
		writeWhole(w, r, contentType, body)
		return nil
	}
	return notSpring(r)
}

func notSpring(r *http.Request) error {
	return api.Problem(http.StatusNotFound, "there is nothing at %s; ask for %s{application}/{profiles}, with /{label} after it, or for {application}-{profile}.yml, .json or .properties", r.URL.Path, springPrefix)
}

// springFile returns the extension of a name that asks for a whole file, "" for one that does not.
func springFile(name string) string {
	if ext := path.Ext(name); slices.Contains([]string{".properties", ".yml", ".yaml", ".json"}, ext) {
		return ext
	}
	return ""
}

// getSpringFile answers with everything that a caller sees in one file, with ${other} replaced unless
// ?resolvePlaceholders=false.
func (s *Store) getSpringFile(w http.ResponseWriter, r *http.Request, parts []string) error {
	file, label := parts[len(parts)-1], parts[:len(parts)-1]
	ext := springFile(file)
	name := strings.TrimSuffix(file, ext)
	dash := strings.LastIndexByte(name, '-')
	if dash <= 0 || dash == len(name)-1 {
		return notSpring(r)
	}
	env, err := s.springEnvironment(r, name[:dash], name[dash+1:], label...)
	if err != nil {
		return err
	}
	values, types := map[string]string{}, map[string]string{}
	for _, source := range slices.Backward(env.Sources) {
		for key, value := range source.Source {
			values[key], types[key] = value, source.types[key]
		}
	}
	if r.URL.Query().Get("resolvePlaceholders") != "false" {
		values = config.Interpolate(values)
	}
	if ext == ".properties" {
		writeWhole(w, r, "text/plain;charset=UTF-8", javaProperties(values))
		return nil
	}
	tree := nest(values, types)
	if ext == ".json" {
		body, err := json.Marshal(tree)
		if err != nil {
			return fmt.Errorf("encode the properties: %w", err)
		}
		writeWhole(w, r, "application/json", body)
		return nil
	}
	writeWhole(w, r, "text/plain;charset=UTF-8", appendYAML(nil, tree, 0))
	return nil
}

// springEnvironment resolves for an application, or several, in a profile, or several: a record fits if it does for
// any of them, and of records that are equally specific the one for the last of them wins.
func (s *Store) springEnvironment(r *http.Request, names, profiles string, label ...string) (springEnvironment, error) {
	if !s.loaded.Load() {
		return springEnvironment{}, ErrLoading
	}
	env := springEnvironment{Name: names, Profiles: strings.Split(profiles, ","), Sources: []springSource{}}
	base := scopeOf(r)
	if len(label) == 1 {
		env.Label = &label[0]
		if err := springLabel(&base, label[0]); err != nil {
			return springEnvironment{}, api.Problem(http.StatusBadRequest, "%v", err)
		}
	}
	order, err := s.orderOf(r)
	if err != nil {
		return springEnvironment{}, err
	}
	var callers []*caller
	var apps []string
	for _, profile := range env.Profiles {
		for name := range strings.SplitSeq(names, ",") {
			base.App, base.Env = strings.TrimSpace(name), strings.TrimSpace(profile)
			callers = append(callers, asCaller(s.known(base), order))
			apps = append(apps, base.App)
		}
	}
	ix := s.index.Load()
	env.Version = strconv.FormatUint(ix.rev, 10)
	type fit struct {
		*record
		of int // the last of callers that it fits
	}
	var fits []fit
	ix.visible(apps, func(rec *record) {
		for i, c := range slices.Backward(callers) {
			if rec.matches(c) {
				fits = append(fits, fit{rec, i})
				break
			}
		}
	})
	slices.SortFunc(fits, func(a, b fit) int {
		return cmp.Or(cmp.Compare(b.rank[order], a.rank[order]), cmp.Compare(b.of, a.of), cmp.Compare(b.age, a.age))
	})
	gone := map[string]bool{} // ids, of what a roll-out deletes
	// A Spring client that has profiles puts sources whose name says -profile above its own files, and others below
	// some of them. All of ours say it, so that they stay together and in order.
	prefix := "platform:" + names + "-" + profiles + "/"
	at := map[config.Scope]int{} // index of the source of a scope
	said := map[string]uint16{}  // by key, the last rank that has it
	for _, f := range fits {
		if f.gone {
			gone[f.ID] = true
		}
		if gone[f.ID] {
			continue
		}
		if rank, ok := said[f.Key]; ok && rank == f.rank[order] {
			continue // as specific, and it lost
		}
		said[f.Key] = f.rank[order]
		i, ok := at[f.Scope]
		if !ok {
			i = len(env.Sources)
			at[f.Scope] = i
			scope := f.ScopeText()
			if scope == "" {
				scope = "everybody"
			}
			env.Sources = append(env.Sources, springSource{prefix + scope, map[string]string{}, map[string]string{}})
		}
		env.Sources[i].Source[f.Key], env.Sources[i].types[f.Key] = f.Value, f.Type
	}
	return env, nil
}

// springLabel reads stack:region:zone, of which the end may be missing, into scope.
func springLabel(scope *config.Scope, label string) error {
	parts := strings.Split(label, ":")
	if len(parts) > 3 {
		return errors.New("the label has more than three parts; write stack:region:zone, empty where any will do")
	}
	for i, field := range []*string{&scope.Stack, &scope.Region, &scope.Zone} {
		if i < len(parts) && parts[i] != "" {
			*field = parts[i]
		}
	}
	return nil
}
