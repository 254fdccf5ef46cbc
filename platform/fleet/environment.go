package fleet

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// reserved reports whether only the fleet may give an environment variable. The environment's name and properties of a
// process are for whoever starts it, or the platform, to say.
func reserved(name string) bool {
	if name == "ROADBED_ENV" || name == "ROADBED_PROPERTIES" {
		return false
	}
	return strings.HasPrefix(name, "ROADBED_") || strings.HasPrefix(name, "EC2_") || name == "NETFLIX_INSTANCE_ID"
}

// inherited returns what instances get of the platform's own environment: all but what names the platform itself,
// its token for one.
func inherited(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return reserved(name) || strings.HasPrefix(name, "NETFLIX_") || name == "PORT" || name == "PWD" || name == "OLDPWD"
	})
}

// environment returns the environment of one instance: the platform's own, what Config gives, the identity, and what
// the user gives, later ones winning, except that nobody can alter who the instance is.
func (s *slot) environment(id string, port int) []string {
	c := s.f.c
	if err := os.MkdirAll(s.cacheDir(), 0o700); err != nil {
		s.f.log.Warn("an instance has no place for its last known good files", "slot", s.name, "err", err)
	}
	identity := []string{
		fmt.Sprintf("PORT=%d", port),
		"ROADBED_APP=" + s.app,
		"ROADBED_GROUP=" + s.g.name,
		instanceMark + "=" + id,
		dataMark + "=" + c.Dir,
		"ROADBED_HOST=127.0.0.1",
		"ROADBED_REGION=" + c.Region,
		"ROADBED_ZONE=" + s.zone,
		"ROADBED_CRITICALITY=" + s.spec.Criticality.String(),
		"ROADBED_CACHE=" + s.cacheDir(),
		"NETFLIX_APP=" + s.app,
		"NETFLIX_CLUSTER=" + s.moniker.Cluster(),
		"NETFLIX_STACK=" + s.moniker.Stack,
		"NETFLIX_DETAIL=" + s.moniker.Detail,
		"NETFLIX_AUTO_SCALE_GROUP=" + s.g.name,
		"NETFLIX_INSTANCE_ID=" + id,
		"EC2_INSTANCE_ID=" + id,
		"EC2_REGION=" + c.Region,
		"EC2_AVAILABILITY_ZONE=" + s.zone,
		"EC2_LOCAL_IPV4=127.0.0.1",
	}
	var user []string
	for k, v := range s.spec.Env {
		if !reserved(k) {
			user = append(user, k+"="+expand(v, port, s.n, s.zone, c.Self))
		}
	}
	if s.spec.Dir != "" {
		user = append(user, "PWD="+s.spec.Dir)
	}
	return merge(s.f.baseEnv, c.Env, identity, user)
}

// merge joins environments; a later value of a name wins. The result is sorted.
func merge(envs ...[]string) []string {
	byName := make(map[string]string)
	for _, env := range envs {
		for _, kv := range env {
			if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
				byName[name] = value
			}
		}
	}
	out := make([]string, 0, len(byName))
	for n, v := range byName {
		out = append(out, n+"="+v)
	}
	slices.Sort(out)
	return out
}

func lookup(env []string, name string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
