package main

import (
	"context"
	stderrors "errors"
	"flag"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/metadata"
)

func checkCommand() subcommand {
	return subcommand{
		name: "check", args: "DIR", count: 1,
		about: "Compares the records of a cache with its leases, snapshots and blobs. Each finding is a line; with any, or if the database is damaged,\n" +
			"the exit code is 1. What the next process to open the cache repairs by itself, as after every crash, is told and is no finding.\n" +
			"Nothing is changed.",
		flags: func(fs *flag.FlagSet) func(context.Context, []string, *streams) error {
			asJSON := fs.Bool("json", false, "a JSON object instead of lines")
			return func(ctx context.Context, args []string, s *streams) error { return runCheck(ctx, args[0], *asJSON, s) }
		},
	}
}

// verdict is the JSON form of what check finds.
type verdict struct {
	Findings []finding `json:"findings"`
	// Repaired are records that the next start drops or repairs.
	Repaired []repaired `json:"repaired"`
	// Damaged is the database if it is damaged.
	Damaged *damage `json:"damaged,omitempty"`
}

type finding struct {
	Kind    cache.FindingKind `json:"kind"`
	Record  string            `json:"record,omitempty"`
	Subject string            `json:"subject,omitempty"`
	Text    string            `json:"text"`
	Repair  cache.RepairKind  `json:"repair,omitempty"`
}

type repaired struct {
	Record string `json:"record"`
	Reason string `json:"reason"`
}

type damage struct {
	Path string   `json:"path"`
	Lost []string `json:"lost"`
	Gaps int      `json:"gaps"`
}

func damageOf(r *metadata.SalvageReport) *damage {
	if r == nil {
		return nil
	}
	return &damage{Path: r.Path, Lost: r.Lost, Gaps: r.Gaps}
}

func runCheck(ctx context.Context, dir string, asJSON bool, s *streams) (err error) {
	i, err := inspect(ctx, dir, s)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, i.Close()) }()
	stop := s.busy("checking")
	found, err := i.Check(ctx)
	stop()
	if err != nil {
		return err
	}
	v := verdict{Findings: []finding{}, Repaired: []repaired{}, Damaged: damageOf(i.Salvaged)}
	for _, f := range found {
		v.Findings = append(v.Findings, finding{f.Kind, f.Record, f.Subject, f.Text, f.Repair})
	}
	for _, ev := range i.Repaired {
		v.Repaired = append(v.Repaired, repaired{ev.ID, ev.Reason})
	}
	if asJSON {
		err = printJSON(s.out, v)
	} else {
		err = v.print(s.out)
	}
	if err == nil && (len(v.Findings) > 0 || v.Damaged != nil) {
		return errFindings
	}
	return err
}

func (v *verdict) print(out *console.Printer) error {
	for _, r := range v.Repaired {
		out.Printf("note: the next start repairs record %s: %s\n", console.Name(r.Record), console.Name(r.Reason))
	}
	for _, f := range v.Findings {
		repair := ""
		if f.Repair != cache.RepairNone {
			repair = " (repair: " + string(f.Repair) + ")"
		}
		out.Printf("%s: %s%s\n", f.Kind, console.Name(f.Text), repair)
	}
	if v.Damaged != nil {
		out.Printf("damaged database: %s\n", console.Name(v.Damaged.Path))
	}
	if len(v.Findings) == 0 && v.Damaged == nil {
		out.Printf("ok\n")
	}
	return out.Err
}
