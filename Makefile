# make help lists what there is. All Go code is built from this directory; the tools that
# check it and the servers that it is tested against are pinned in tools/*/go.mod, and built
# once into a cache outside the clone.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

FUZZTIME ?= 10m

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sando
# A new pin or a new Go is a new directory.
pinned = $(CACHE)/tools/$(1)-$(shell { cat tools/$(1)/go.mod tools/$(1)/go.sum; go version; } | sha256sum | cut -c1-16)
LINT   := $(call pinned,lint)
MINIO  := $(call pinned,minio)/minio
COSIGN := $(call pinned,cosign)/cosign

# The race detector needs cgo and a C compiler. scrypt computes in one goroutine, on memory of
# its own; watched at every step it takes ten times as long.
RACE := $(shell [ "$$(go env CGO_ENABLED)" = 1 ] && command -v "$$(go env CC)" >/dev/null && echo -race -gcflags=golang.org/x/crypto/scrypt=-race=false)

# What is not run under it: the programs as processes, which take too long.
PACKAGES := go list ./... | grep -v /e2e
UNRACED  := ^Test(Memory|Thousand)
ELSE     := grep -rlE --include=*_test.go '^func Test(Memory|Thousand)' . | grep -v '^./e2e/' | xargs -n 1 dirname | sort -u

# Most of the time of most tests goes into fsync. make test has waited for a real disk.
FAST  := $(shell [ -w /dev/shm ] && echo /dev/shm || echo "$${TMPDIR:-/tmp}")
CRASH := '^(TestKill|TestTwoBuilders|TestEveryPersistStep|TestAsRootPowerCut|TestAsRootBootstrap)'

# skip says that something was not done. Under CI=true that is a failure.
skip = { echo "SKIP: needs $(1)"; [ "$${CI:-}" != true ]; }

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## build bin/builder and bin/puller, static and stripped
	CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags='-s -w' -o bin/ ./cmd/builder ./cmd/puller

.PHONY: test
test: ## run every test that needs no root
	@grep -rhoE --include='*_test.go' '^func TestAsRoot\w+' . | sed 's/^func/SKIP: needs root (see make check):/' || true
	@for t in minio cosign; do [ -x bin/tools/$$t ] || echo "SKIP: needs $$t (see make tools): what is tested against it"; done
	go test -skip '^TestAsRoot' ./...

.PHONY: check
check: tools lint unit crash short-fuzz ## run what CI runs; as root, what needs root too

.PHONY: lint
lint: format mod vet staticcheck vuln rules units ## run the static checks alone

.PHONY: fmt
fmt: ## format the Go code
	gofmt -l -w .

.PHONY: format
format: ## fail where the Go code is not formatted
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not formatted, see make fmt:" $$bad; exit 1; }

.PHONY: mod
mod: ## fail where go.mod is not tidy or a module was changed
	go mod tidy -diff
	go mod verify

.PHONY: vet
vet: ## run go vet, with the tag faults too
	go vet ./...
	go vet -tags faults ./...
	go vet -tags faults,soak ./...

$(LINT)/staticcheck: package = honnef.co/go/tools/cmd/staticcheck
$(LINT)/govulncheck: package = golang.org/x/vuln/cmd/govulncheck
$(MINIO):            package = github.com/minio/minio
$(COSIGN):           package = github.com/sigstore/cosign/v3/cmd/cosign
$(LINT)/%: | tools/lint
	$(build-tool)
$(MINIO): | tools/minio
	$(build-tool)
$(COSIGN): | tools/cosign
	$(build-tool)

define build-tool
@echo "building $(@F), once: this takes a while"
cd $| && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o $@.new $(package) && mv $@.new $@
endef

# Tests look for them in bin/tools.
.PHONY: tools
tools: $(MINIO) $(COSIGN) ## build MinIO and cosign, which tests use: once, in about 10 minutes
	@mkdir -p bin/tools && ln -sfn $^ bin/tools/

.PHONY: staticcheck
staticcheck: $(LINT)/staticcheck ## run staticcheck with all its checks
	$< -checks all ./...
	$< -checks all -tags faults,soak ./...

# CI has no way to the database, so this one skip is no failure there.
.PHONY: vuln
vuln: $(LINT)/govulncheck ## look for known vulnerabilities, when their database can be reached
	@if timeout 30 $< -version | grep -q '^DB updated'; then echo '$< ./...'; $< ./...; \
	else echo "SKIP: needs https://vuln.go.dev: govulncheck"; fi

.PHONY: rules
rules: ## check the rules of internal/rules
	go test ./internal/rules

.PHONY: units
units: ## verify the shipped units, and print how systemd rates their sandbox
	@command -v systemd-analyze >/dev/null || $(call skip,systemd-analyze: the shipped units)
	go test -count=1 -v -run '^TestUnits$$' ./systemd | grep -v '^==='

# The race detector multiplies memory, so tests that measure that are run without it; so are
# those that do the same a thousand times, in one goroutine. PACKAGES with such tests: ELSE.
.PHONY: unit
unit: ## run all tests but those of both programs, for which see crash
	@$(if $(RACE),:,$(call skip,a C compiler: the race detector))
	TMPDIR=$(FAST) go test $(RACE) -p 3 -timeout 20m -skip '$(UNRACED)' $$($(PACKAGES))
	TMPDIR=$(FAST) go test -run '$(UNRACED)' $$($(ELSE))

.PHONY: crash
crash: ## run the tests of both programs: scripts, the demo, kills at random, each write to the disk failing, real servers
	TMPDIR=$(FAST) SANDO_CRASH=1 go test -count=1 -timeout 20m -parallel 3 -tags faults ./e2e/...

.PHONY: short-fuzz
short-fuzz: ## run every fuzz target for 10 s
	@$(MAKE) --no-print-directory fuzz FUZZTIME=10s

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each (10m)
	tools/fuzz $(FUZZTIME)

.PHONY: soak
soak: tools ## run the long rest: power cuts, faults during recovery, releases that fail in real time, long fuzzing; as root
	TMPDIR=$(FAST) SANDO_SOAK=1 SANDO_CRASH=1 go test -count=1 -timeout 6h -tags faults,soak -run $(CRASH) ./e2e
	TMPDIR=$(FAST) go test -count=1 -timeout 2h -tags faults,soak -skip Downtime ./e2e/reliability
	TMPDIR=$(FAST) go test -count=1 -timeout 1h -tags faults,soak -v -run Downtime ./e2e/reliability | grep -v -e '^===' -e ': updated: ' -e ': unhealthy: '
	$(MAKE) --no-print-directory fuzz

.PHONY: demo
demo: ## run the demonstration: no root, no server, nothing left behind
	go run ./e2e/demo

.PHONY: bench
bench: ## measure: each figure with a ratio from the same run
	go test -run '^$$' -bench . -benchmem ./...
	go run ./e2e/bench

.PHONY: cover
cover: ## measure how much of the code the tests run
	@mkdir -p bin
	go test -skip '^TestAsRoot' -coverpkg=./... -coverprofile=bin/cover.out ./...
	go tool cover -func=bin/cover.out | tail -1

.PHONY: sizes
sizes: ## print what each module adds to the programs
	@for p in builder puller; do tools/sizes $$p; done

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin
