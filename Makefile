# Two commands do everything: "make demo" shows the main job, "make test" proves
# it, and both install what they need first.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export GOFLAGS := -buildvcs=false

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
SMALL := -trimpath -tags=nethttpomithttp2 -gcflags=crypto/tls=-l -gcflags=math/big=-l # why: test/brevet_test.go
FUZZTIME ?= 20s
CHAOSTIME ?= 1m

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

.PHONY: build
build: ## the programs, without cgo, into bin/; all but brevetd-pkcs11, which loads libraries, are static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/brevetd ./cmd/brevetd-pkcs11
	CGO_ENABLED=0 go build $(SMALL) -ldflags '$(LDFLAGS) -funcalign=16' -o bin/ ./cmd/brevet
	ln -sf brevet bin/age-plugin-brevet && ln -sf brevet bin/brevet-extension

.PHONY: demo
demo: build ## play a whole CI job against a broker on this machine
	@go run ./test/demo

.PHONY: demo-function
demo-function: build ## play the life of a serverless function: cold start, warm call, thaw, shutdown
	@go run ./test/demo/function

.PHONY: tools
tools: ## install the servers and clients that the tests need
	@./test/tools.sh

.PHONY: test
test: lint build ## every test
	go test $$(go list ./... | grep -vE "/test(/|$$)")
	go test -count=1 ./test/... # these run programs that Go's cache of results does not see

.PHONY: race
race: tools ## every test under the race detector
	CGO_ENABLED=1 go test -count=1 -race ./...

.PHONY: chaos
chaos: tools ## Redis fails in every known way, for CHAOSTIME each, while exchanges run; the books must agree
	CHAOSTIME=$(CHAOSTIME) go test -count=1 -timeout 2h -v ./test/chaos

.PHONY: lint
lint: tools ## gofmt, go vet, staticcheck and the direction of imports
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	.tools/bin/staticcheck ./...
	go test ./test -run '^TestImports'

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	@grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  go test -list '^Fuzz' "$$dir" | { grep '^Fuzz' || true; } | while read -r target; do \
	    echo "== $$dir $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir"; \
	  done; done

.PHONY: bench
bench: tools ## micro-benchmarks, then exchanges per second of the whole broker, and the cold start of functions
	go test -run '^$$' -bench . -benchmem ./broker/... ./issuers/... ./policies/... ./plugins/...
	go run ./test/bench

.PHONY: cover
cover: tools ## test coverage by package, and .cover/cover.html
	@mkdir -p .cover
	go test -count=1 -coverpkg ./broker/...,./issuers/...,./policies/...,./plugins/...,./cmd/... -coverprofile .cover/cover.out ./...
	@go tool cover -html .cover/cover.out -o .cover/cover.html
	@go tool cover -func .cover/cover.out | tail -1
