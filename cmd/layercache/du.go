package main

import (
	"cmp"
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

func duCommand() subcommand {
	return subcommand{
		name: "du", args: "DIR", count: 1,
		about: "Lists the records of a cache, the largest first, what else takes up space, and totals. Nothing is changed.",
		flags: func(fs *flag.FlagSet) func(context.Context, []string, *streams) error {
			var d du
			fs.Var((*list)(&d.filter), "filter", "only records that match `F`; several mean \"or\"")
			fs.DurationVar(&d.age, "unused-for", 0, "only records not used within this `duration`, such as 48h")
			fs.BoolVar(&d.tree, "tree", false, "records below what they lie on; a merge stands below its first parent")
			fs.BoolVar(&d.json, "json", false, "a JSON object instead of a table")
			return func(ctx context.Context, args []string, s *streams) error {
				if d.tree && d.json {
					return console.UsageError{Err: errors.New("--tree and --json exclude each other")}
				}
				return d.run(ctx, args[0], s)
			}
		},
	}
}

// du is the command of that name.
type du struct {
	filter     []string
	tree, json bool
	age        time.Duration
}

// report is what du finds, and its JSON form.
type report struct {
	Records  []*usage.Info    `json:"records"`
	Overhead []usage.Overhead `json:"overhead"`
	Totals   totals           `json:"totals"`
}

// totals are sums in bytes.
type totals struct {
	// Records counts the records listed. Size is what they occupy, of which Reclaimable is of records that nobody uses or shares.
	Records     int   `json:"records"`
	Size        int64 `json:"size"`
	Reclaimable int64 `json:"reclaimable"`
	// Overhead is what takes up space beside the records.
	Overhead int64 `json:"overhead"`
}

func (d *du) run(ctx context.Context, dir string, s *streams) (err error) {
	i, err := inspect(ctx, dir, s)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, i.Close()) }()
	stop := s.busy("measuring")
	r, err := d.report(ctx, i)
	stop()
	if err != nil {
		return err
	}
	switch {
	case d.json:
		return printJSON(s.out, r)
	case d.tree:
		printTree(s.out, r)
	default:
		printTable(s.out, r)
	}
	return s.out.Err
}

func (d *du) report(ctx context.Context, i *local.Inspection) (*report, error) {
	infos, err := i.DiskUsage(ctx, usage.DiskUsageInfo{Filter: d.filter, AgeLimit: d.age})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, bySize)
	r := &report{Records: infos, Overhead: []usage.Overhead{}}
	if infos == nil {
		r.Records = []*usage.Info{}
	}
	for _, info := range infos {
		r.Totals.Records++
		r.Totals.Size += info.Size
		if !info.InUse && !info.Shared {
			r.Totals.Reclaimable += info.Size
		}
	}
	if len(d.filter) > 0 || d.age > 0 {
		return r, nil // some of the records were asked for, and nothing else
	}
	if r.Overhead, err = i.Overhead(ctx); err != nil {
		return nil, err
	}
	for _, o := range r.Overhead {
		r.Totals.Overhead += o.Size
	}
	return r, nil
}

// bySize puts the largest first, and has an order for those of the same size.
func bySize(a, b *usage.Info) int {
	return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ID, b.ID))
}

func printTable(out *console.Printer, r *report) {
	rows := [][]string{{"ID", "SIZE", "TYPE", "USES", "LAST USED", "STATE", "DESCRIPTION"}}
	for _, info := range r.Records {
		rows = append(rows, recordRow(console.Name(info.ID), info))
	}
	printColumns(out, rows)
	printRest(out, r)
}

func recordRow(id string, info *usage.Info) []string {
	lastUsed := "never"
	if info.LastUsedAt != nil {
		lastUsed = timeText(*info.LastUsedAt)
	}
	return []string{
		id, console.Bytes(info.Size), console.Name(string(info.RecordType)), countText(info.UsageCount), lastUsed, stateText(info),
		console.Name(info.Description),
	}
}

// stateText says in a word or two what keeps a record.
func stateText(info *usage.Info) string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{{info.Mutable, "mutable"}, {info.InUse, "in use"}, {info.Shared, "shared"}} {
		if w.is {
			words = append(words, w.word)
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

func printRest(out *console.Printer, r *report) {
	if len(r.Overhead) > 0 {
		rows := [][]string{{"KIND", "SIZE", "NAME"}}
		for _, o := range r.Overhead {
			rows = append(rows, []string{string(o.Kind), console.Bytes(o.Size), console.Name(o.Name)})
		}
		out.Printf("\n")
		printColumns(out, rows)
	}
	t := r.Totals
	out.Printf("\n%s: %s, reclaimable %s\n", recordsText(t.Records), console.Bytes(t.Size), console.Bytes(t.Reclaimable))
	if len(r.Overhead) > 0 {
		out.Printf("beside them: %s\ntotal: %s\n", console.Bytes(t.Overhead), console.Bytes(t.Size+t.Overhead))
	}
}

// printTree prints each record once, below the first of its parents that is listed.
func printTree(out *console.Printer, r *report) {
	listed := map[string]*usage.Info{}
	for _, info := range r.Records {
		listed[info.ID] = info
	}
	children := map[string][]*usage.Info{}
	for _, info := range r.Records {
		below := ""
		for _, p := range info.Parents {
			if listed[p] != nil && p != info.ID {
				below = p
				break
			}
		}
		children[below] = append(children[below], info)
	}
	rows := [][]string{{"ID", "SIZE", "TYPE", "USES", "LAST USED", "STATE", "DESCRIPTION"}}
	type level struct {
		infos []*usage.Info
		depth int
	}
	for stack := []level{{children[""], 0}}; len(stack) > 0; {
		top := &stack[len(stack)-1]
		if len(top.infos) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		info, depth := top.infos[0], top.depth
		top.infos = top.infos[1:]
		id := strings.Repeat("  ", depth) + console.Name(info.ID)
		if n := len(info.Parents); n > 1 {
			id += " (of " + countText(n) + ")"
		}
		rows = append(rows, recordRow(id, info))
		stack = append(stack, level{children[info.ID], depth + 1})
	}
	printColumns(out, rows)
	printRest(out, r)
}
