package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed/platform/api"
)

type groupIn struct {
	Name string `path:"name" doc:"a server group, e.g. hello-v000"`
}

type reasonIn struct {
	Name   string `path:"name" doc:"a server group, e.g. hello-v000"`
	Reason string `query:"reason" doc:"why, for the change log"`
}

type groupOut struct{ Body GroupView }

// Mount adds the fleet's operations to s.
func (f *Fleet) Mount(s *api.Surface) {
	op := func(id, method, path, summary string, status int, errs ...int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/api/v1" + path, Summary: summary, DefaultStatus: status, Tags: []string{"fleet"}, Errors: errs}
	}
	const refused = http.StatusServiceUnavailable
	type clustersOut struct {
		Body []ClusterView `nullable:"false"`
	}
	huma.Register(s.API, op("list-clusters", "GET", "/clusters", "Clusters with server groups", 200),
		func(context.Context, *struct{}) (*clustersOut, error) { return &clustersOut{f.Clusters()}, nil })

	type groupsOut struct {
		Body []GroupView `nullable:"false"`
	}
	huma.Register(s.API, op("list-server-groups", "GET", "/server-groups", "Server groups that should run", 200),
		func(context.Context, *struct{}) (*groupsOut, error) { return &groupsOut{f.Groups()}, nil })

	huma.Register(s.API, op("get-server-group", "GET", "/server-groups/{name}", "One server group", 200, 404),
		func(_ context.Context, in *groupIn) (*groupOut, error) { return answer(f.Group(in.Name)) })

	type createIn struct{ Body Spec }
	huma.Register(s.API, op("create-server-group", "POST", "/server-groups", "Start a new server group", 201, 409, 422, refused),
		func(ctx context.Context, in *createIn) (*groupOut, error) { return answer(f.Create(ctx, in.Body)) })

	type resizeIn struct {
		Name string `path:"name" doc:"a server group, e.g. hello-v000"`
		Body Resize
	}
	huma.Register(s.API, op("resize-server-group", "PUT", "/server-groups/{name}/capacity", "Run more or fewer instances", 200, 404, 422, refused),
		func(ctx context.Context, in *resizeIn) (*groupOut, error) {
			return answer(f.Resize(ctx, in.Name, in.Body))
		})

	huma.Register(s.API, op("disable-server-group", "POST", "/server-groups/{name}/disable", "Take all instances out of traffic; they keep running", 200, 404, refused),
		func(ctx context.Context, in *reasonIn) (*groupOut, error) {
			return answer(f.SetDisabled(ctx, in.Name, true, in.Reason))
		})
	huma.Register(s.API, op("enable-server-group", "POST", "/server-groups/{name}/enable", "Bring all instances back into traffic", 200, 404, refused),
		func(ctx context.Context, in *reasonIn) (*groupOut, error) {
			return answer(f.SetDisabled(ctx, in.Name, false, in.Reason))
		})

	huma.Register(s.API, op("destroy-server-group", "DELETE", "/server-groups/{name}", "Stop all instances and forget the server group", 204, 404, refused),
		func(ctx context.Context, in *reasonIn) (*struct{}, error) {
			return nil, f.Destroy(ctx, in.Name, in.Reason)
		})

	type instancesIn struct {
		Group string `query:"group" doc:"only those of this server group"`
	}
	type instancesOut struct {
		Body []InstanceView `nullable:"false"`
	}
	huma.Register(s.API, op("list-instances", "GET", "/instances", "Instances of the fleet", 200),
		func(_ context.Context, in *instancesIn) (*instancesOut, error) {
			return &instancesOut{f.Instances(in.Group)}, nil
		})

	type killIn struct {
		ID     string `path:"id" doc:"an instance's id, or its slot: hello-v000-0"`
		Signal string `query:"signal" doc:"a signal's name, e.g. KILL; empty ends it gracefully"`
		Reason string `query:"reason" doc:"why, for the change log"`
	}
	type killOut struct{ Body InstanceView }
	huma.Register(s.API, op("kill-instance", "DELETE", "/instances/{id}", "End or signal one instance; another takes its slot", 200, 404, 409, 422, refused),
		func(ctx context.Context, in *killIn) (*killOut, error) {
			v, err := f.Kill(ctx, in.ID, in.Signal, in.Reason)
			if err != nil {
				return nil, err
			}
			return &killOut{v}, nil
		})

	s.Mux.HandleFunc("GET /api/v1/instances/{id}/logs", f.serveLogs)
}

func answer(g GroupView, err error) (*groupOut, error) {
	if err != nil {
		return nil, err
	}
	return &groupOut{g}, nil
}

// Line is one line of an instance's log.
type Line struct {
	Text string `json:"text"`
}

var instanceID = regexp.MustCompile(`^[A-Za-z0-9._~^-]+-[0-9]+-[a-z2-7]{4}$`)

// openLogOf returns the log of an instance that runs, or of the last one of a slot that ran.
func (f *Fleet) openLogOf(id string) (*logFile, string, error) {
	s, v, err := f.find(id)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if s.log != nil {
			return s.log.use(), v.ID, nil
		}
		return nil, "", api.Problem(http.StatusNotFound, "%s has no log yet: %s", v.ID, v.Health)
	}
	if !instanceID.MatchString(id) {
		return nil, "", err
	}
	l, operr := openLog(f.logs.file(id))
	if errors.Is(operr, fs.ErrNotExist) {
		return nil, "", err
	}
	if operr != nil {
		return nil, "", fmt.Errorf("fleet: open the log of %s: %w", id, operr)
	}
	return l, id, nil
}

// serveLogs answers with the last lines of a log as JSON, or, when asked to follow, with them and all that come as
// server-sent events: "line" for each and "end" when the instance has ended.
func (f *Fleet) serveLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	tail := 200
	if t := q.Get("tail"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil || n < 0 || n > maxTail {
			api.WriteProblem(w, r, api.Problem(http.StatusUnprocessableEntity, "tail=%s must be a number of lines, 0 to %d", t, maxTail))
			return
		}
		tail = n
	}
	follow := false
	if t := q.Get("follow"); t != "" {
		var err error
		if follow, err = strconv.ParseBool(t); err != nil {
			api.WriteProblem(w, r, api.Problem(http.StatusUnprocessableEntity, "follow=%s must be true or false", t))
			return
		}
	}
	l, id, err := f.openLogOf(r.PathValue("id"))
	if err != nil {
		api.WriteProblem(w, r, err)
		return
	}
	defer l.close()
	lines, pos := l.tail(tail)
	if !follow {
		if lines == nil {
			lines = []string{}
		}
		api.WriteJSON(w, struct {
			Instance string   `json:"instance"`
			Lines    []string `json:"lines"`
		}{id, lines})
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	events := make(chan api.Event)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(events)
		send := func(name string, data any) error {
			select {
			case events <- api.Event{Name: name, Data: data}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, line := range lines {
			if send("line", Line{line}) != nil {
				return
			}
		}
		if l.follow(ctx, pos, func(line string) error { return send("line", Line{line}) }) == nil && ctx.Err() == nil {
			send("end", struct { //nolint:errcheck // the reader is gone if this fails
				Instance string `json:"instance"`
			}{id})
		}
	}()
	if err := api.Stream(ctx, w, events); err != nil {
		f.log.Warn("cannot stream a log", "instance", id, "err", err)
	}
	cancel()
	<-read
}
