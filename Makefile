# drover: live migration for libvirt/KVM. `make help` lists the targets.
SHELL     := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0)
LDFLAGS   := -s -w -X drover/cmd/internal/version.Version=$(VERSION)
BUILD     := build
# The binding opens libvirt at run time, so that one agent runs on libvirt 9 to 12.
TAGS      := libvirt_dlopen
export GOFLAGS ?= -trimpath
SUM       := $(GO) tool gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg
N         ?= 200

.PHONY: help
help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that building and the lab need (as root; does nothing when all is there)
	@deploy/lab/install-deps.sh

.PHONY: build
build: ## build drover, drover-agent and drover-lab into build/
	@mkdir -p $(BUILD)
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o $(BUILD)/drover ./cmd/drover
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o $(BUILD)/drover-lab ./cmd/drover-lab
	CGO_ENABLED=1 $(GO) build -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BUILD)/drover-agent ./cmd/drover-agent

.PHONY: test
test: ## all tests; as root with real guests migrating between real hosts (under 12 minutes on 2 cores)
	@if [ "$$(id -u)" = 0 ]; then deploy/lab/install-deps.sh; $(MAKE) --no-print-directory build test-all; else \
	  echo "not root: the tests that need real hosts are left out (drover-lab, hypervisor/kvm, test/lab); run as root for all"; \
	  $(MAKE) --no-print-directory test-unprivileged; fi

# The tests on real hosts take longest, mostly waiting: they begin first, beside the others.
.PHONY: test-all
test-all:
	@mkdir -p $(BUILD)
	$(SUM) --jsonfile $(BUILD)/test.json -- -tags $(TAGS) -timeout 25m ./test/lab ./...

.PHONY: test-unprivileged
test-unprivileged:
	@mkdir -p $(BUILD)
	$(SUM) --jsonfile $(BUILD)/test.json -- -tags $(TAGS) -timeout 25m \
	  $$($(GO) list -tags $(TAGS) ./... | grep -vE '^drover/(cmd/drover-lab$$|hypervisor/kvm|test/lab)')

.PHONY: race
race: ## the tests that need no real hosts, under the race detector
	$(SUM) -- -race -tags $(TAGS) -timeout 20m \
	  $$($(GO) list -tags $(TAGS) ./... | grep -vE '^drover/(cmd/drover-lab$$|test/lab)')

.PHONY: test-lab
test-lab: build deps ## as root: the tests with a lab of their own: CPU quotas of a real guest, libvirt's faults
	$(GO) test -count 1 -timeout 20m -tags lab ./hypervisor/throttle
	DROVER_LAB_TOOL=$(CURDIR)/$(BUILD)/drover-lab $(GO) test -count 1 -timeout 30m -tags '$(TAGS) lab' ./hypervisor/kvm
	DROVER_BUILD=$(CURDIR)/$(BUILD) $(GO) test -count 1 -timeout 20m -tags '$(TAGS) lab' -run TestSlowedGuest ./test/lab

.PHONY: lab
lab: build deps ## start three real hosts with agents and a scheduler, and leave them running
	KEEP=1 test/demo.sh

.PHONY: demo
demo: ## as root: three hosts, TLS everywhere, a guest that migrates, and nothing left behind (KEEP=1 keeps it)
	@test/demo.sh

.PHONY: soak
soak: build deps ## N (200) migrations in a row around three hosts, then look for leftovers and growth
	DROVER_BUILD=$(CURDIR)/$(BUILD) DROVER_SOAK=$(N) $(GO) test -count 1 -v -timeout 3h -tags soak -run TestSoak ./test/lab

.PHONY: auto-lab
auto-lab: build deps ## as root: one of three real hosts overloaded; the automatic loop restores balance, and then rests for ten minutes
	DROVER_BUILD=$(CURDIR)/$(BUILD) DROVER_LAB_CPUS=1 $(GO) test -count 1 -v -timeout 30m -tags soak -run TestBalanceRestored ./test/lab

.PHONY: drain-lab
drain-lab: build deps $(BUILD)/etcd ## drains of real hosts: twelve guests, everything killed and cancelled at random moments, forecasts (about 45 minutes); RUN=REGEXP for some
	DROVER_BUILD=$(CURDIR)/$(BUILD) DROVER_LAB_ETCD=$(CURDIR)/$(BUILD)/etcd/usr/bin/etcd DROVER_SOAK=drain \
	  $(GO) test -count 1 -v -timeout 2h -tags soak -run '$(or $(RUN),^TestDrain(Twelve|Blocked|Killed|CancelSeries|Forecast)$$)' ./test/lab

$(BUILD)/etcd: ## an etcd to be killed apart from the scheduler, unpacked and not installed
	@mkdir -p $@.d && cd $@.d && apt-get update -qq && apt-get download -qq etcd-server && dpkg-deb -x etcd-server_*.deb . && mv $(CURDIR)/$@.d $(CURDIR)/$@

.PHONY: truth
truth: build deps ## N (50) migrations with the record compared with what was seen from outside
	DROVER_BUILD=$(CURDIR)/$(BUILD) DROVER_TRUTH=$(or $(filter-out 200,$(N)),50) $(GO) test -count 1 -v -timeout 1h -tags soak -run TestTruth ./test/lab

.PHONY: bench
bench: bench-overhead bench-precopy bench-order ## all benchmarks (many hours)

.PHONY: bench-overhead
bench-overhead: build deps ## drover migrate --wait against a bare libvirt migration, side by side; JSON in build/
	DROVER_BUILD=$(CURDIR)/$(BUILD) $(GO) test -count 1 -v -timeout 1h -tags bench -run 'TestOverhead|TestAgentCost' ./test/lab

.PHONY: bench-precopy
bench-precopy: build deps ## drover against fixed policies over all workloads (hours; resumes; CELLS= POLICIES= RUNS=3 FRESH=1 FOR=); JSON in build/
	DROVER_BUILD=$(CURDIR)/$(BUILD) DROVER_CELLS='$(CELLS)' DROVER_POLICIES='$(POLICIES)' DROVER_RUNS=$(RUNS) DROVER_FRESH=$(FRESH) DROVER_FOR=$(FOR) \
	  $(GO) test -count 1 -v -timeout 0 -tags bench -run TestPrecopy ./test/lab

.PHONY: bench-precopy-show
bench-precopy-show: ## what bench-precopy has measured so far, and what holds; SAVE=1 ships its runs of fixed policies
	$(GO) run ./test/bench/precopy -results $(BUILD)/bench-precopy.json $(if $(SAVE),-save)

.PHONY: bench-order
bench-order: ## schedules of moves against the bound of the links, and with DATA=FILE on the published UCC 2015 instances; JSON in build/
	@mkdir -p $(BUILD)
	$(GO) run ./test/bench/order -data '$(DATA)' -json $(BUILD)/bench-order.json -schedules $(BUILD)/bench-order-schedules.json

.PHONY: bench-bandwidth
bench-bandwidth: build deps ## one bandwidth budget against fixed rules: simulated (100 hosts, 500 moves), and as root batches on real hosts (hours; resumes); JSON in build/
	$(GO) run ./test/bench/bandwidth -json $(BUILD)/bench-bandwidth-sim.json
	DROVER_BUILD=$(CURDIR)/$(BUILD) DROVER_HOSTS=4 $(GO) test -count 1 -v -timeout 0 -tags bench -run 'TestTwoGuests|TestTenantTraffic|TestBandwidth' ./test/lab

.PHONY: bench-day
bench-day: ## a recorded day of VMs' load (DATA=FILE) under drover's automatic moves and other managers' rules; JSON in build/
	@mkdir -p $(BUILD)
	$(GO) run ./test/bench/day -data '$(DATA)' -json $(BUILD)/bench-day.json

.PHONY: bench-drain
bench-drain: ## drains of simulated fleets under drover's rule and those of other managers, N (5) of each kind; JSON in build/
	@mkdir -p $(BUILD)
	$(GO) run ./test/bench/drain -seeds $(or $(filter-out 200,$(N)),5) -json $(BUILD)/bench-drain.json

.PHONY: bench-roll
bench-roll: ## ten of a hundred simulated hosts, rolling: moves, headroom and time against the bound of the links; JSON in build/
	@mkdir -p $(BUILD)
	$(GO) run ./test/bench/roll -json $(BUILD)/bench-roll.json

.PHONY: bench-plan
bench-plan: build ## drover plan against Ganeti's hbal on its own score, and its speed (half an hour; as root it installs hbal); JSON in build/
	@dpkg-query -W python3-numpy ganeti-htools >/dev/null 2>&1 || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends python3 python3-numpy ganeti-htools; }
	$(GO) run ./test/bench/plan -seeds $(or $(filter-out 200,$(N)),20)

.PHONY: verify
verify: ## formatting, vet and static analysis
	@out=$$($(GO) tool gofumpt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not formatted (make fix):"; echo "$$out"; exit 1; }
	$(GO) vet -tags $(TAGS) ./...
	$(GO) tool staticcheck -tags $(TAGS) ./...
	@$(GO) mod tidy -diff >/dev/null || { echo "go.mod is not tidy (make fix)"; exit 1; }

.PHONY: fix
fix: ## mend what verify complains about, where a tool can
	$(GO) tool gofumpt -w $$(git ls-files '*.go')
	$(GO) mod tidy

.PHONY: deb
deb: build ## Debian packages drover and drover-agent in dist/
	deploy/deb/build.sh $(VERSION) $(BUILD) dist

.PHONY: clean
clean: ## remove what the build made
	rm -rf $(BUILD) dist
