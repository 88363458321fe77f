package main

import (
	"context"
	stderrors "errors"
	"flag"
	"maps"
	"slices"
	"strings"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
)

func showCommand() subcommand {
	return subcommand{
		name: "show", args: "DIR ID", count: 2,
		about: "Shows everything about one record. Nothing is changed.",
		flags: func(fs *flag.FlagSet) func(context.Context, []string, *streams) error {
			asJSON := fs.Bool("json", false, "a JSON object instead of lines")
			return func(ctx context.Context, args []string, s *streams) error {
				return runShow(ctx, args[0], args[1], *asJSON, s)
			}
		},
	}
}

func runShow(ctx context.Context, dir, id string, asJSON bool, s *streams) (err error) {
	i, err := inspect(ctx, dir, s)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, i.Close()) }()
	rec, err := i.Record(ctx, id)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(s.out, rec)
	}
	printColumns(s.out, recordLines(rec))
	return s.out.Err
}

// recordLines are the names and values of what is known; what is empty is left out.
func recordLines(r *cache.RecordInfo) [][]string {
	var rows [][]string
	add := func(name string, values ...string) {
		for _, v := range values {
			if v != "" {
				rows = append(rows, []string{name, console.Name(v)})
			}
		}
	}
	add("id", r.ID)
	add("description", r.Description)
	add("kind", r.Kind)
	add("state", r.State)
	add("held", strings.TrimPrefix(stateText(&r.Info), "-"))
	add("type", string(r.RecordType))
	add("size", countText(int(r.Size))+" ("+console.Bytes(r.Size)+")")
	add("created", timeText(r.CreatedAt))
	if r.LastUsedAt != nil {
		add("last used", timeText(*r.LastUsedAt))
	}
	add("uses", countText(r.UsageCount))
	if r.MutableID != "" && r.ImmutableID != "" {
		add("mutable half", r.MutableID)
		add("committed half", r.ImmutableID)
	}
	if r.Retain {
		add("policy", "retain")
	}
	add("parent", r.Parents...)
	add("child", r.Children...)
	add("snapshot", r.Snapshots...)
	add("layer type", r.LayerType)
	add("image", r.Images...)
	if b := r.Blob; b != nil {
		add("blob", b.Digest.String())
		add("media type", b.MediaType)
		if b.Size > 0 {
			add("blob size", countText(int(b.Size))+" ("+console.Bytes(b.Size)+")")
		}
		add("blob is", blobText(b))
		add("diff ID", b.DiffID.String())
		add("chain ID", b.ChainID.String())
		add("blob chain ID", b.BlobChainID.String())
		add("url", b.URLs...)
		for _, v := range b.Variants {
			add("variant", v.Digest.String()+" "+v.MediaType+" "+console.Bytes(v.Size))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.Values)) {
		add("value "+console.Name(key), string(r.Values[key]))
	}
	return rows
}

func blobText(b *cache.BlobInfo) string {
	text := "elsewhere"
	if b.Local {
		text = "local"
	}
	if b.Lazy {
		text += ", not extracted"
	}
	return text
}
