# Sourced by .ci/run and .ci/full: what is checked. One function is one step; each fails when it finds nothing to check.

module=github.com/layercache/cache
test_timeout=10m
platforms='linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64'

# What the machine needs, and our own checkers, built once.
step_prepare() {
  [ "$(id -u)" -eq 0 ] || die 'run as root: mounts need it, and the unprivileged part changes to user nobody by itself'
  command -v go >/dev/null || die 'Go is missing'
  id nobody >/dev/null || die 'there is no user nobody'
  need gcc gcc libc6-dev # the race detector links with it
  need setpriv util-linux
  need tar tar
  need mkfs.btrfs btrfs-progs # filesystems with reflinks, on loop devices
  need mkfs.xfs xfsprogs
  need skopeo skopeo # other readers of what examples/export writes
  need umoci umoci
  need git git # for BuildKit's own tests, and busybox for what they run in containers
  need runc runc # buildkitd starts containers with it
  need busybox busybox-static
  go version
  local tool
  for tool in testgate importcheck ruletable dropincheck; do
    go build -o "$bin/$tool" "./internal/tools/$tool"
  done
  go build -o "$bin/test2json" cmd/test2json
}

# go.mod and go.sum of every module are what `go mod tidy` would write.
step_tidy() {
  local dir
  for dir in $(modules); do
    printf '%s\n' "$dir"
    go -C "$dir" mod tidy -diff || die "go.mod or go.sum of $dir is not tidy: run \`go -C $dir mod tidy\`"
  done
}

# Who may import whom, how much the library drags in (bench.md row 19), what go.mod never requires.
step_imports() { "$bin/importcheck"; }

# docs/rules.md is current, and every required rule has a test.
step_rules() { "$bin/ruletable" -check; }

step_vet() {
  local dir
  for dir in $(modules); do
    [ "$dir" != ./tools ] || continue # has no package of its own
    go -C "$dir" vet ./...
  done
}

# golangci-lint, pinned in tools/go.mod, with its formatters (gofumpt, goimports), in every module.
step_lint() {
  local dir config=$PWD/.golangci.yml
  go -C tools build -o "$bin/golangci-lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
  "$bin/golangci-lint" config verify --config "$config" || die '.golangci.yml is not valid'
  for dir in $(modules); do
    [ "$dir" != ./tools ] || continue
    (cd "$dir" && "$bin/golangci-lint" run --allow-parallel-runners --config "$config" ./...)
  done
}

# The README's test command; -json only shows how each test ended.
step_test() {
  in_memory go test -timeout "$test_timeout" -json ./... | "$bin/testgate" -must .ci/must-run.txt
}

# The same under the race detector, with the assertions of internal/invariant compiled in. What is long because it does one thing many
# times over does it less often: .ci/full has it at full length under the race detector, too.
step_race() {
  in_memory go test -race -short -tags invariants -count=1 -timeout "$test_timeout" -json ./... | "$bin/testgate" -must .ci/must-run.txt
}

# as_nobody DIR COMMAND...: runs a command in DIR without any privilege, with a home, caches and temporary directory of its own.
as_nobody() {
  local dir=$1 home=$nobody_home
  shift
  (cd "$dir" && setpriv --reuid="$(id -u nobody)" --regid="$(id -g nobody)" --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
    env -i PATH="$PATH" CI=true LC_ALL=C HOME="$home" TMPDIR="$nobody_tmp" GOCACHE="$home/gocache" GOMODCACHE="$nobody_modcache" \
    GOPROXY=off GOFLAGS='-mod=readonly -buildvcs=false' GOTOOLCHAIN=local "$@" </dev/null)
}

# Tests and examples as user nobody (design 6b), on a copy of the tree that nobody can read but not write.
# Test binaries come from root's build cache; with short set, as in .ci/run, they do less of what they do many times over. The examples are compiled by nobody, as the README says, from a module cache that was
# filled for it: root's own may be out of its sight.
step_nobody() {
  local tree=$work/nobody/tree pkg dir test
  nobody_home=$work/nobody/home
  nobody_modcache=$work/nobody/modcache
  chmod 755 "$work"
  nobody_tmp=$nobody_home/tmp
  if roomy /dev/shm; then nobody_tmp=$(mktemp -d /dev/shm/layercache-ci.XXXXXX); fi # removed by finish
  mkdir -p "$tree" "$nobody_tmp" "$nobody_home" "$work/nobody/tests"
  tar -c --exclude=./.git . | tar -x -C "$tree"
  chmod -R a+rX,go-w "$work/nobody"
  chown -R nobody "$nobody_home" "$nobody_tmp"
  as_nobody "$tree" test -r go.mod || die "user nobody cannot read $tree: set TMPDIR to a directory all can enter"
  as_nobody "$tree" test ! -w go.mod || die 'user nobody can write the tree: the step would prove nothing'

  # shellcheck disable=SC2016 # the template is for go list
  go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... >"$work/nobody/packages"
  [ -s "$work/nobody/packages" ] || die 'no package has tests'
  while read -r pkg dir; do
    go test -c -o "$work/nobody/tests/${pkg//\//_}.test" "$pkg"
  done <"$work/nobody/packages"
  chmod -R a+rX "$work/nobody/tests"
  while read -r pkg dir; do
    test=$work/nobody/tests/${pkg//\//_}.test
    # The events tell how it ended, also for a binary that dies; the exit code would say nothing more.
    as_nobody "$tree/${dir#"$PWD"}" "$bin/test2json" -t -p "$pkg" "$test" -test.v=test2json -test.timeout="$test_timeout" ${short:+-test.short} || true
  done <"$work/nobody/packages" | "$bin/testgate" -must .ci/must-run-nobody.txt

  fill_modcache "$nobody_modcache"
  quickstart as_nobody "$tree"
  pull as_nobody "$tree"
  export_image as_nobody "$tree"
}

# fill_modcache DIR: the modules of the root go.mod, taken from root's module cache where it has them.
fill_modcache() {
  local have
  have=$(go env GOMODCACHE)/cache/download
  GOMODCACHE=$1 GOPROXY="file://$have,$(go env GOPROXY)" GOFLAGS=-modcacherw go mod download
  chmod -R a+rX "$1"
}

# as_root DIR COMMAND...: the counterpart of as_nobody; what quickstart keeps for its user goes to the work directory.
as_root() {
  local dir=$1
  shift
  (cd "$dir" && GOCACHE=$(go env GOCACHE) XDG_CACHE_HOME=$work/user-cache "$@")
}

# quickstart RUNNER DIR: the README's second command, as it stands there and twice on one directory; the first run there must
# miss every step and the second, another process, must hit every one.
quickstart() {
  local runner=$1 tree=$2 data
  data=$("$runner" "$tree" mktemp -d)
  "$runner" "$tree" go run ./examples/quickstart >"$work/quickstart.0"
  "$runner" "$tree" go run ./examples/quickstart -dir "$data/cache" >"$work/quickstart.1"
  "$runner" "$tree" go run ./examples/quickstart -dir "$data/cache" >"$work/quickstart.2"
  cat "$work/quickstart.2"
  local n
  n=$(grep -cE '^step .*: (hit|miss)$' "$work/quickstart.1" || true)
  [ "$n" -ge 3 ] || die "quickstart reports $n steps, not the three of its image"
  [ "$(grep -cE '^step .*: miss$' "$work/quickstart.1" || true)" -eq "$n" ] || die 'the first run of quickstart in an empty directory claims a hit'
  [ "$(grep -cE '^step .*: hit$' "$work/quickstart.2" || true)" -eq "$n" ] || die 'the second run of quickstart did not hit every step'
  rm -rf "$data"
}

# make_layout DIR: an OCI image layout of two layers for this machine, the second of which deletes a file of the first.
make_layout() {
  local dir=$1 files=$work/layout.files i arch diff_ids='' layers='' config manifest
  arch=$(go env GOARCH)
  mkdir -p "$dir/blobs/sha256" "$files/1/etc" "$files/2/etc"
  printf 'kept\n' >"$files/1/etc/kept"
  printf 'gone\n' >"$files/1/etc/gone"
  : >"$files/2/etc/.wh.gone"
  for i in 1 2; do
    tar -c -C "$files/$i" --owner=0 --group=0 etc >"$files/$i.tar"
    gzip -nc "$files/$i.tar" >"$files/$i.gz"
    diff_ids+=${diff_ids:+,}\"sha256:$(sha256sum <"$files/$i.tar" | cut -d' ' -f1)\"
    layers+=${layers:+,}$(add_blob "$dir" "$files/$i.gz" application/vnd.oci.image.layer.v1.tar+gzip)
  done
  printf '{"os":"linux","architecture":"%s","rootfs":{"type":"layers","diff_ids":[%s]}}' "$arch" "$diff_ids" >"$files/config"
  config=$(add_blob "$dir" "$files/config" application/vnd.oci.image.config.v1+json)
  printf '{"schemaVersion":2,"config":%s,"layers":[%s]}' "$config" "$layers" >"$files/manifest"
  manifest=$(add_blob "$dir" "$files/manifest" application/vnd.oci.image.manifest.v1+json)
  printf '{"schemaVersion":2,"manifests":[%s]}' "$manifest" >"$dir/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
  rm -r "$files"
}

# add_blob LAYOUT FILE MEDIATYPE: copies the file into the layout and prints its descriptor.
add_blob() {
  local sum
  sum=$(sha256sum <"$2" | cut -d' ' -f1)
  cp "$2" "$1/blobs/sha256/$sum"
  printf '{"mediaType":"%s","digest":"sha256:%s","size":%d}' "$3" "$sum" "$(stat -c %s "$2")"
}

# pull RUNNER DIR: the second example on an image made here: first nothing is fetched, then everything, then nothing again.
pull() {
  local runner=$1 tree=$2 data layout=$work/layout
  [ -d "$layout" ] || make_layout "$layout"
  chmod -R a+rX "$layout"
  data=$("$runner" "$tree" mktemp -d)
  "$runner" "$tree" go run ./examples/pull -cache "$data/cache" "$layout" >"$work/pull.1"
  "$runner" "$tree" go run ./examples/pull -cache "$data/cache" -extract -list "$layout" >"$work/pull.2"
  "$runner" "$tree" go run ./examples/pull -cache "$data/cache" -extract -list "$layout" >"$work/pull.3"
  cat "$work/pull.2"
  grep -qxE 'lazy +2 of 2 layers .*' "$work/pull.1" && grep -qxE 'done +0 blobs fetched .* 0 extracted' "$work/pull.1" || die 'pull fetched something unasked'
  grep -qxE 'done +2 blobs fetched .* 2 extracted' "$work/pull.2" || die 'pull did not fetch and extract two layers'
  grep -qxE 'done +0 blobs fetched .* 0 extracted' "$work/pull.3" || die 'the second run of pull did something again'
  local out
  for out in "$work/pull.2" "$work/pull.3"; do
    grep -q ' etc/kept$' "$out" || die 'pull lost a file'
    ! grep -q ' etc/gone$' "$out" || die 'pull lists a file that the image deletes'
  done
  rm -rf "$data"
}

# export_image RUNNER DIR: the third example on a cache that quickstart filled: the records are listed, the last of them is exported twice, to
# the same bytes, and pull finds in the layout what quickstart put into the cache.
export_image() {
  local runner=$1 tree=$2 data id n
  data=$("$runner" "$tree" mktemp -d)
  "$runner" "$tree" go run ./examples/quickstart -dir "$data/cache" >"$work/export.0"
  "$runner" "$tree" go run ./examples/export -dir "$data/cache" >"$work/export.list"
  n=$(grep -cE '^[^ ]+  layer ' "$work/export.list" || true)
  [ "$n" -ge 3 ] || die "export lists $n layers, not the three of quickstart's image"
  id=$(tail -n 1 "$work/export.list" | cut -d' ' -f1)
  "$runner" "$tree" go run ./examples/export -dir "$data/cache" -record "$id" -compression zstd -force -o "$data/1" >"$work/export.1"
  "$runner" "$tree" go run ./examples/export -dir "$data/cache" -record "$id" -compression zstd -force -o "$data/2" >"$work/export.2"
  cat "$work/export.1"
  [ "$(grep -cE '^layer +[0-9]+/3 .* zstd$' "$work/export.1" || true)" -eq 3 ] || die 'export did not write three zstd layers'
  diff -r "$data/1" "$data/2" || die 'a second export differs'
  "$runner" "$tree" go run ./examples/pull -cache "$data/second" -extract -list "$data/1" >"$work/export.3"
  grep -qxE 'done +3 blobs fetched .* 3 extracted' "$work/export.3" || die 'pull did not take what export wrote'
  grep -qE ' go\.mod$' "$work/export.3" || die 'the exported image lacks a file of quickstart'
  rm -rf "$data"
}

# Every example builds, and quickstart, pull and export do what they promise, as root.
step_examples() {
  local n
  n=$(go list ./examples/... | wc -l)
  [ "$n" -gt 0 ] || die 'there are no examples'
  mkdir -p "$work/examples"
  go build -o "$work/examples/" ./examples/...
  quickstart as_root "$PWD"
  pull as_root "$PWD"
  export_image as_root "$PWD"
}

# Other systems: everything compiles, tests included (vet type-checks them).
step_cross() {
  local p
  for p in $platforms; do
    printf '%s\n' "$p"
    GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go build ./...
    GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go vet ./...
    GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go -C otel vet ./... # which users import, on any system
  done
}

# The modules beside the library: BuildKit side by side, and BuildKit's own data.
step_bench() {
  [ -f bench/go.mod ] || die 'bench/ is missing'
  (cd bench && go test -timeout "$test_timeout" -json ./...) | "$bin/testgate"
  (cd bench && go run . -quick)
}

# Its tests build BuildKit, twice and with other flags than ours, so that the first run on a machine compiles a thousand packages. BuildKit's
# own tests run on this library alone, and are compared with how they are known to end on BuildKit's cache; .ci/full runs both. What
# the end-to-end tests have built serves the benchmark of whole builds, of which a little is run.
step_compat() {
  [ -f compat/go.mod ] || die 'compat/ is missing'
  (cd compat && LAYERCACHE_E2E_PROGRAMS=$work/e2e go test -timeout 30m -json ./...) | "$bin/testgate" -module "$module/compat" -must .ci/must-run-compat.txt
  (cd compat && go run ./cmd/bench -quick -programs "$work/e2e")
}

# Layers pulled from a real registry, which runs in the test's process, well behaved and not.
step_registry() {
  [ -f registry/go.mod ] || die 'registry/ is missing'
  (cd registry && in_memory go test -timeout "$test_timeout" -json ./...) | "$bin/testgate" -module "$module/registry" -must .ci/must-run-registry.txt
}

# Metrics and spans of a run of which every count is known.
step_otel() {
  [ -f otel/go.mod ] || die 'otel/ is missing'
  (cd otel && in_memory go test -race -timeout "$test_timeout" -json ./...) | "$bin/testgate" -module "$module/otel" -must .ci/must-run-otel.txt
}

# On a containerd daemon, which the tests build and start: the library's own tests, and what is to be said of a daemon alone.
step_containerd() {
  [ -f containerd/daemon/go.mod ] || die 'containerd/daemon/ is missing'
  local p
  for p in $platforms; do
    (cd containerd && GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go vet ./...)
    (cd examples/containerd && GOOS=${p%/*} GOARCH=${p#*/} CGO_ENABLED=0 go vet ./...)
  done
  (cd containerd && go test -timeout "$test_timeout" ./...)
  (cd containerd/daemon && in_memory go test -timeout 40m -json ./...) | "$bin/testgate" -module "$module/containerd/daemon" -must .ci/must-run-containerd.txt
}

# What a BuildKit fork still misses is what docs/dropin-missing.txt says, no more and no less.
step_dropin() {
  local check=../shared/dropin/check.sh
  if [ ! -e "$check" ]; then
    printf '%s\n' '!!!' "!!! SKIPPED: $check is not here, so whether BuildKit compiles on the library was NOT checked." '!!!'
    return
  fi
  "$bin/dropincheck" -check "$check" -known docs/dropin-missing.txt
}

# The first ones one after the other, the cheapest first, and the rest two at a time, the longest first.
first_steps='prepare tidy imports rules vet'
other_steps='test nobody race compat containerd cross dropin bench registry lint otel examples'
all_steps="$first_steps $other_steps"

# run_steps [NAME...]: the named steps, or all; prepare always.
run_steps() {
  local name
  local -a first other
  if [ $# -eq 0 ]; then
    read -ra first <<<"$first_steps"
    read -ra other <<<"$other_steps"
  else
    first=(prepare)
    other=("$@")
  fi
  for name in "${other[@]}"; do
    declare -F "step_$name" >/dev/null || die "there is no step $name; there are: $all_steps"
  done
  for name in "${first[@]}"; do run_step "$name" "step_$name"; done
  for name in "${other[@]}"; do
    [ "$name" = prepare ] || printf '%s\n' "$name step_$name" >>"$work/queue"
  done
  run_together 2
}
