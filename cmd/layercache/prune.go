package main

import (
	"context"
	stderrors "errors"
	"flag"
	"slices"
	"strings"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/usage"
)

func pruneCommand() subcommand {
	return subcommand{
		name: "prune", args: "DIR", count: 1,
		about: "Deletes records that nobody uses, and prints those that went. Without a limit of space everything goes that may; with one, what is used least\n" +
			"goes first, until the rest is within it.",
		flags: func(fs *flag.FlagSet) func(context.Context, []string, *streams) error {
			var p usage.PruneInfo
			fs.Var((*list)(&p.Filter), "filter", "only records that match `F`; several mean \"or\"")
			fs.BoolVar(&p.All, "all", false, "also records of the engine itself, of frontends, and those shared with images")
			fs.DurationVar(&p.KeepDuration, "keep-duration", 0, "spare records used within this `duration`, such as 48h")
			fs.Var((*size)(&p.ReservedSpace), "reserved-space", "the cache may always keep `N` bytes")
			fs.Var((*size)(&p.MaxUsedSpace), "max-used-space", "the cache may keep at most `N` bytes")
			fs.Var((*size)(&p.MinFreeSpace), "min-free-space", "delete until `N` bytes are free on the disk")
			fs.Var((*size)(&p.KeepBytes), "keep-bytes", "the older name of -reserved-space, `N` bytes")
			fs.BoolVar(&p.DryRun, "dry-run", false, "change nothing, but tell what would be deleted")
			why := fs.Bool("why", false, "with -dry-run: also list what stays, and why")
			return func(ctx context.Context, args []string, s *streams) error {
				switch {
				case p.DryRun:
					return dryRun(ctx, args[0], p, *why, s)
				case *why:
					return console.UsageError{Err: errors.New("-why is for -dry-run")}
				}
				return runPrune(ctx, args[0], p, s)
			}
		},
	}
}

func runPrune(ctx context.Context, dir string, policy usage.PruneInfo, s *streams) (err error) {
	c, err := local.Open(ctx, dir, local.Options{MustExist: true, NoBackgroundGC: true})
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, c.Close()) }()
	return prune(ctx, c, policy, "deleted", s)
}

func dryRun(ctx context.Context, dir string, policy usage.PruneInfo, why bool, s *streams) (err error) {
	i, err := inspect(ctx, dir, s)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, i.Close()) }()
	if err := prune(ctx, i, policy, "would delete", s); err != nil || !why {
		return err
	}
	return explain(ctx, i, policy, s)
}

// explain lists what stays, the largest first, and why.
func explain(ctx context.Context, i *local.Inspection, policy usage.PruneInfo, s *streams) error {
	infos, err := i.DiskUsage(ctx, usage.DiskUsageInfo{Policies: []usage.PruneInfo{policy}})
	if err != nil {
		return err
	}
	slices.SortFunc(infos, bySize)
	rows := [][]string{{"STAYS", "SIZE", "REASON", "DESCRIPTION"}}
	for _, info := range infos {
		if v := info.Verdict; v != nil && !v.Pruned && len(v.Reasons) > 0 {
			rows = append(rows, []string{console.Name(info.ID), console.Bytes(info.Size), string(v.Reasons[0]), console.Name(info.Description)})
		}
	}
	s.out.Printf("\n")
	printColumns(s.out, rows)
	return s.out.Err
}

// pruner deletes, or plans to.
type pruner interface {
	Prune(ctx context.Context, ch chan usage.Info, policies ...usage.PruneInfo) error
}

// prune prints what goes as it goes. did says what becomes of it.
func prune(ctx context.Context, from pruner, policy usage.PruneInfo, did string, s *streams) error {
	ch := make(chan usage.Info)
	done := make(chan error, 1)
	go func() {
		err := from.Prune(ctx, ch, policy)
		close(ch)
		done <- err
	}()
	p := progress{s: s, did: did}
	p.begin()
	for info := range ch {
		p.gone(&info)
	}
	p.end()
	err := <-done
	s.out.Printf("%s\n", p.text())
	return err
}

// progress shows how far a prune is.
type progress struct {
	s     *streams
	did   string
	count int
	bytes int64

	screen *console.Screen
	drawn  time.Time
}

// frameInterval bounds how often a terminal is drawn on.
const frameInterval = 100 * time.Millisecond

func (p *progress) begin() {
	if p.s.tty != nil {
		p.screen = &console.Screen{Out: p.s.err, Size: p.s.tty}
		p.draw()
	}
}

func (p *progress) draw() {
	p.drawn = time.Now()
	p.screen.Draw(nil, []string{p.text()})
}

// text says how far it is.
func (p *progress) text() string {
	return p.did + " " + recordsText(p.count) + ", " + console.Bytes(p.bytes)
}

func (p *progress) gone(info *usage.Info) {
	p.count++
	p.bytes += info.Size
	if p.screen != nil {
		p.screen.Draw(nil, nil) // the record's line may go to the same terminal
	}
	p.s.out.Printf("%s\n", strings.Join([]string{console.Name(info.ID), console.Bytes(info.Size), console.Name(info.Description)}, "\t"))
	if p.screen != nil && time.Since(p.drawn) >= frameInterval {
		p.draw()
	}
}

func (p *progress) end() {
	if p.screen != nil {
		p.screen.Draw(nil, nil)
	}
}
