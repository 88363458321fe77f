package cache_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
)

// This file holds the operations on merges and diffs.

// derivedFiles are the files of the layers that they are made of, and of those that scenes have.
var derivedFiles = map[string][]string{
	"left": {"left"}, "right": {"right"}, "above": {"right", "above"}, "top": {"right", "above", "top"},
	"merge": {"left", "right"}, "diff": {"right"}, "upper": {"above"},
}

// keep has the scene hold a record until its end, and read it there.
func (s *scene) keep(name string, ref cache.ImmutableRef) cache.ImmutableRef {
	if s.blobs == nil {
		s.blobs, s.lazy = newSceneBlobs(s.t), map[string]cache.ImmutableRef{}
	}
	s.names[name] = names{Imm: ref.ID()}
	s.lazy[name] = ref
	return ref
}

// inputsOfMerges adds what merges and diffs are made of: a layer, and a chain of three.
func inputsOfMerges(s *scene) {
	s.keep("left", s.finalized("left", nil))
	right := s.keep("right", s.finalized("right", nil))
	s.keep("top", s.finalized("top", s.keep("above", s.finalized("above", right))))
}

// recipes adds a merge and a diff that nobody has extracted.
func recipes(s *scene) {
	inputsOfMerges(s)
	merged, err := s.env.Manager.Merge(ctx, refs(s.lazy["left"], s.lazy["right"]), nil)
	require.NoError(s.t, err)
	s.keep("merge", merged)
	diff, err := s.env.Manager.Diff(ctx, s.lazy["left"], s.lazy["right"], nil)
	require.NoError(s.t, err)
	s.keep("diff", diff)
}

// mergeOfLazy adds a merge of layers that are known by their blobs.
func mergeOfLazy(s *scene) {
	base := s.lazyLayer("gz", "gz", nil)
	top := s.lazyLayer("zs", "zs", base)
	merged, err := s.env.Manager.Merge(ctx, refs(top, base), nil)
	require.NoError(s.t, err)
	s.names["merge of lazy"] = names{Imm: merged.ID()}
	s.lazy["merge of lazy"] = merged
}

func init() {
	for name, op := range mergeOperations {
		op.blob, op.again = true, true
		operations[name] = op
	}
}

// made releases what an operation has made.
func made(ctx context.Context, ref cache.Ref, err error) error {
	if err != nil {
		return err
	}
	return ref.Release(ctx)
}

var mergeOperations = map[string]operation{
	"merge": {
		arrange: inputsOfMerges,
		do: func(ctx context.Context, s *scene) error {
			ref, err := s.env.Manager.Merge(ctx, refs(s.lazy["left"], s.lazy["right"]), nil)
			return made(ctx, ref, err)
		},
		states:     []string{"", "new recipe"},
		concurrent: true, // lease and row
	},
	"diff over several layers": {
		arrange: inputsOfMerges,
		do: func(ctx context.Context, s *scene) error {
			ref, err := s.env.Manager.Diff(ctx, s.lazy["right"], s.lazy["top"], nil)
			return made(ctx, ref, err)
		},
		states:     []string{"", "new recipe, new recipe, new recipe"},
		concurrent: true,
	},
	"extract merge": {
		arrange: recipes,
		do:      func(ctx context.Context, s *scene) error { return s.lazy["merge"].Extract(ctx, nil) },
		states:  []string{""},

		concurrent: true, // mark and lease
	},
	"extract diff": {
		arrange: recipes,
		do:      func(ctx context.Context, s *scene) error { return s.lazy["diff"].Extract(ctx, nil) },
		states:  []string{""},

		concurrent: true, // mark and lease
	},
	"new on merge": {
		arrange: recipes,
		do: func(ctx context.Context, s *scene) error {
			ref, err := s.env.Manager.New(ctx, s.lazy["merge"], nil)
			return made(ctx, ref, err)
		},
		states:     []string{""},
		concurrent: true,
	},
	"extract merge of lazy": {
		arrange:    mergeOfLazy,
		do:         func(ctx context.Context, s *scene) error { return s.lazy["merge of lazy"].Extract(ctx, nil) },
		states:     []string{"", "gz ready", "gz ready, zs ready"},
		concurrent: true,
	},
}

// isRecipe tells whether a row is that of a merge or a diff.
func isRecipe(row map[string]string) bool {
	return row["cache.mergeParents"] != "" || row["cache.lowerDiffParent"] != ""
}

// requireRecipes reads the trees of all merges and diffs that there are.
func requireRecipes(t *testing.T, env *testutil.Env, rep crashReport, rows map[string]map[string]string) {
	t.Helper()
	for id, row := range rows {
		if !isRecipe(row) {
			continue
		}
		ref, err := env.Manager.Get(ctx, id, nil, newSceneBlobs(t).through(env.Faults))
		require.NoError(t, err)
		want := filesOfRecipe(rep, rows, id)
		testutil.WithMount(t, ref, true, func(dir string) {
			require.ElementsMatch(t, want, slices.Collect(maps.Keys(readFiles(t, dir))), "%v", row)
		})
		release(t, ref)
	}
}

// filesOfRecipe works out from the rows which files a record of the scene, or one made of such, has.
func filesOfRecipe(rep crashReport, rows map[string]map[string]string, id string) []string {
	row := rows[id]
	if !isRecipe(row) {
		for name, n := range rep.Names {
			switch {
			case n.Imm != id:
			case name == "gz":
				return []string{"gz", "dir/base"}
			case name == "zs":
				return []string{"gz", "zs"}
			default:
				return derivedFiles[name]
			}
		}
		return nil
	}
	if lower := row["cache.lowerDiffParent"]; lower != "" {
		hidden := filesOfRecipe(rep, rows, strings.Trim(strings.TrimSpace(lower), `"`))
		upper := filesOfRecipe(rep, rows, strings.Trim(strings.TrimSpace(row["cache.upperDiffParent"]), `"`))
		return slices.DeleteFunc(slices.Clone(upper), func(f string) bool { return slices.Contains(hidden, f) })
	}
	var files []string
	for _, quoted := range strings.Split(strings.Trim(strings.TrimSpace(row["cache.mergeParents"]), "[]"), ",") {
		for _, f := range filesOfRecipe(rep, rows, strings.Trim(quoted, `"`)) {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files
}
