package chaos

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/fault"
)

// Recipe is a template of rules with a name and parameters.
type Recipe struct {
	Name       string      `json:"name"`
	What       string      `json:"what" doc:"What it does, in a sentence."`
	Parameters []Parameter `json:"parameters"`

	cook func(p map[string]string, nonCritical []string) (rules, description string, err error)
}

// Parameter is a value that a recipe takes.
type Parameter struct {
	Name    string `json:"name"`
	Default string `json:"default,omitempty" doc:"Empty: it must be given."`
	What    string `json:"what"`
}

// ErrRecipe is why a recipe made no rules.
var ErrRecipe = fmt.Errorf("%w: the recipe cannot be cooked", ErrInvalid)

// Recipes returns all recipes.
func Recipes() []Recipe {
	service := Parameter{"service", "", "the service that is called"}
	status := Parameter{"error", "503", "an HTTP status, or a gRPC code such as unavailable"}
	return []Recipe{
		{"fail-noncritical", "Only critical services are up: calls to all others fail.", []Parameter{status},
			func(p map[string]string, nonCritical []string) (string, string, error) {
				if len(nonCritical) == 0 {
					return "", "", errors.New("every registered service is CRITICAL; a service says what it is by its metadata key criticality")
				}
				return each("client:%s=error("+p["error"]+")", nonCritical), "only critical services are up: " + strings.Join(nonCritical, ", ") + " fail", nil
			}},
		{"fail-service", "Calls to a service fail.", []Parameter{service, status},
			func(p map[string]string, _ []string) (string, string, error) {
				return "client:" + p["service"] + "=error(" + p["error"] + ")", p["service"] + " fails with " + p["error"], nil
			}},
		{"latency", "Calls to a service take longer.", []Parameter{service, {"delay", "", "how much longer, e.g. 300ms; three times its p99 shows whether callers wait"}, {"jitter", "0s", "give or take"}},
			func(p map[string]string, _ []string) (string, string, error) {
				return "client:" + p["service"] + "=delay(" + p["delay"] + "," + p["jitter"] + ")", p["service"] + " is slower by " + p["delay"], nil
			}},
		{"cache-cold", "Caches have nothing: what lies behind them gets all requests.", []Parameter{{"cache", "*", "the cache, or a pattern"}},
			func(p map[string]string, _ []string) (string, string, error) {
				return "cache:" + p["cache"] + "=miss", "the cache " + p["cache"] + " is cold", nil
			}},
		{"zone-loss", "Every service in a zone cuts its connections.", []Parameter{{"zone", "", "the zone that is lost"}},
			func(p map[string]string, _ []string) (string, string, error) {
				return "server:*[" + p["zone"] + "]=reset", "zone " + p["zone"] + " is lost", nil
			}},
		{"slow-db", "Queries take longer.", []Parameter{{"db", "*", "the database, or a pattern"}, {"delay", "500ms", "how much longer"}, {"jitter", "100ms", "give or take"}},
			func(p map[string]string, _ []string) (string, string, error) {
				return "db:" + p["db"] + "=delay(" + p["delay"] + "," + p["jitter"] + ")", "the database " + p["db"] + " is slower by " + p["delay"], nil
			}},
	}
}

// Cook returns the rules that a recipe makes of params, and what they do in words. nonCritical are the services that
// members can do without. It fails with [ErrRecipe] and says what would be right.
func Cook(name string, params map[string]string, nonCritical []string) (rules, description string, err error) {
	all := Recipes()
	i := slices.IndexFunc(all, func(r Recipe) bool { return r.Name == name })
	if i < 0 {
		var names []string
		for _, r := range all {
			names = append(names, r.Name)
		}
		return "", "", fmt.Errorf("%w: there is no recipe %q; there are %s", ErrRecipe, name, strings.Join(names, ", "))
	}
	r, full := all[i], map[string]string{}
	for k := range params {
		if !slices.ContainsFunc(r.Parameters, func(p Parameter) bool { return p.Name == k }) {
			return "", "", fmt.Errorf("%w: %s takes no %q; %s", ErrRecipe, name, k, r.takes())
		}
	}
	for _, p := range r.Parameters {
		if full[p.Name] = cmp.Or(params[p.Name], p.Default); full[p.Name] == "" {
			return "", "", fmt.Errorf("%w: %s needs %s=..., %s", ErrRecipe, name, p.Name, p.What)
		}
	}
	if rules, description, err = r.cook(full, nonCritical); err == nil {
		_, err = fault.ParseRules(rules)
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrRecipe, err)
	}
	return rules, description, nil
}

func (r Recipe) takes() string {
	var out []string
	for _, p := range r.Parameters {
		out = append(out, p.Name)
	}
	return "it takes " + strings.Join(out, ", ")
}

func each(pattern string, names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, fmt.Sprintf(pattern, n))
	}
	return strings.Join(out, ";")
}

// Call is one edge of the graph of calls: who calls what.
type Call struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Preview returns those of calls that rules would hit, chance and zones aside. A rule hits a call at its client, at its
// server, or as the command that it is made with, which carries the callee's name. Rules at databases, caches, queues and
// at the edge hit no call between services. It fails as [fault.ParseRules] does.
func Preview(rules string, calls []Call) ([]Call, error) {
	parsed, err := fault.ParseRules(rules)
	if err != nil {
		return nil, err
	}
	var out []Call
	for _, c := range calls {
		if slices.ContainsFunc(parsed, func(r fault.Rule) bool {
			return r.Matches("client", c.To) || r.Matches("server", c.To) || r.Matches("command", c.To)
		}) {
			out = append(out, c)
		}
	}
	return out, nil
}
