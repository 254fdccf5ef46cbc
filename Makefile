# What each target promises stands in CONTRIBUTING.md.

GO         ?= go
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ALL_GO      = $(shell git ls-files '*.go')

FUZZTIME   ?= 30s
SOAK       ?= 0s
FUZZED      = \
	./. \
	./config \
	./discovery \
	./fault \
	./ipc \
	./ipc/balance \
	./ipc/stream/internal/sse \
	./ipc/stream/turbine \
	./platform/api \
	./platform/edge/auth \
	./platform/edge/filter \
	./platform/edge/http1 \
	./platform/edge/http2 \
	./platform/edge/listen \
	./platform/edge/origin \
	./platform/edge/program \
	./platform/edge/push \
	./platform/edge/ratelimit \
	./platform/edge/region \
	./platform/edge/route \
	./platform/edge/shed \
	./platform/edge/standard \
	./platform/edge/vouch \
	./platform/engine \
	./platform/fleet \
	./platform/properties \
	./platform/registry \
	./platform/telemetry \
	./platform/telemetry/asl \
	./service/sidecar \
	./bench/fleet

.PHONY: run build test soak interop bench bench-registry bench-calls bench-edge fuzz check fmt console clean

## run: build roadbed and start the whole platform with the demo
run: build
	./bin/roadbed up --demo

## build: the one binary, in bin/
build:
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/roadbed ./cmd/roadbed

## test: every test that needs nothing but Go; what is measured under load runs alone, at the end
test:
	$(GO) test -count=1 -timeout 5m -skip '^TestSeen' ./...
	$(GO) test -count=1 -timeout 5m -run '^TestSeen' ./cmd/roadbed
	cd bench && $(GO) test -count=1 -timeout 5m ./...

## soak: the long forms of the tests that have one
soak:
	$(GO) test -count=1 -timeout 60m -run '^TestSeen' ./cmd/roadbed -args -soak
	./interop/install.sh
	cd interop && $(GO) test -count=1 -timeout 60m -run 'UnderChurn|DoesWhatAStock|ResolvesAsTheStore|KeepsItsCircles|HinderNoOtherApp|ReloadsDisturbNobody' . -args -soak

## interop: real clients, servers and a real browser against us; installs Node, Python, Chromium, a JDK, nginx, httpd and more
interop:
	./interop/install.sh
	cd interop && $(GO) test -count=1 -timeout 25m ./...
	cd interop/gatewayapi && $(GO) test -count=1 -timeout 10m ./...

## bench: side-by-side tables against peers
bench:
	cd bench && $(GO) test -run '^$$' -bench . -benchmem -count 3

## bench-registry: registry and configuration beside a stock Eureka server, and against every bar; needs Java and Maven;
## with SOAK=5m, or 1h, 100,000 clients live with it for so long
bench-registry:
	./interop/install.sh
	cd bench && $(GO) run ./cmd/registry -soak $(SOAK)

## bench-calls: what a call costs, beside Go's libraries and resilience4j, and against every bar; needs Java and Maven
bench-calls:
	cd bench && $(GO) run ./cmd/calls

## bench-edge: the edge beside nginx, HAProxy, httputil.ReverseProxy, Caddy and Spring Cloud Gateway, and against every bar;
## needs nginx, HAProxy, wrk, h2load, Java and Maven; with ONLY=beside some parts of it
bench-edge:
	./bench/edge/install.sh
	cd bench && $(GO) run ./cmd/edge -only '$(ONLY)'

## fuzz: every parser, FUZZTIME each
fuzz:
	@for pkg in $(FUZZED); do \
		for target in $$(cd $$pkg && $(GO) test -list '^Fuzz' . | grep '^Fuzz'); do \
			echo "$$pkg $$target for $(FUZZTIME)"; \
			(cd $$pkg && $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .) || exit 1; \
		done; \
	done

## check: form, vet, staticcheck, races, fuzz seeds, import rules, generated files current
check:
	@out="$$(gofmt -l $(ALL_GO))"; if [ -n "$$out" ]; then echo "not gofmt-ed, run make fmt:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	cd interop && $(GO) vet ./...
	cd bench && $(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 -timeout 20m -race -skip '^TestSeen' ./...

## fmt: format every Go file
fmt:
	gofmt -w $(ALL_GO)

## console: bundle the console's sources; commit the result
console:
	$(GO) run ./platform/console/build

clean:
	rm -rf bin
