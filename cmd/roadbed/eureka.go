package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/platform/registry"
)

// eurekaKeys takes Eureka's keys out of a configuration file, written nested or with dots.
func eurekaKeys(keys map[string]any) map[string]string {
	found := make(map[string]string)
	var flatten func(name string, v any)
	flatten = func(name string, v any) {
		if nested, ok := v.(map[string]any); ok {
			for k, v := range nested {
				flatten(name+"."+k, v)
			}
			return
		}
		found[name] = yamlText(v)
	}
	for k, v := range keys {
		if k == "eureka" || strings.HasPrefix(k, "eureka.") {
			flatten(k, v)
			delete(keys, k)
		}
	}
	return found
}

// eurekaSettings makes settings of the file's keys, the environment, which counts more, and the flags, which count
// most. Keys nobody knows are errors, but not in the environment: orchestrators put variables of their own there.
func eurekaSettings(file map[string]string, environ, flags []string, log *slog.Logger) (s registry.Settings, err error) {
	set := func(key, value, from string) error {
		idle, err := s.Set(key, value)
		if idle != "" {
			log.Warn("a key of Eureka has no effect here", "key", key, "from", from, "why", idle)
		}
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(file)) {
		if err := set(k, file[k], "the configuration file"); err != nil {
			return s, fmt.Errorf("the configuration file: %w", err)
		}
	}
	slices.Sort(environ)
	for _, e := range environ {
		key, value, _ := strings.Cut(e, "=")
		for _, p := range []string{"EUREKA_SERVER_", "EUREKA_CLIENT_", "EUREKA_INSTANCE_"} {
			if !strings.HasPrefix(key, p) || value == "" {
				continue
			}
			switch err := set(key, value, "the environment"); {
			case errors.Is(err, registry.ErrNoSetting):
				log.Warn("a variable of the environment is not heeded", "variable", key, "err", err)
			case err != nil:
				return s, fmt.Errorf("the environment: %w", err)
			}
		}
	}
	for _, f := range flags {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return s, fmt.Errorf("--eureka %s: use KEY=VALUE", f)
		}
		if err := set(key, value, "--eureka"); err != nil {
			return s, fmt.Errorf("--eureka: %w", err)
		}
	}
	return s, nil
}
