package double

import (
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

func cutLabel(path string) (name string, ok bool) { return strings.CutPrefix(path, "labels.") }

// cleanLabels checks labels and drops those without a value. It does not change its argument.
func cleanLabels(in map[string]string) (map[string]string, error) {
	for name, value := range in {
		if err := labels.Validate(name, value); err != nil {
			return nil, err
		}
	}
	return dropEmpty(in), nil
}

func dropEmpty(in map[string]string) map[string]string {
	out := maps.Clone(in)
	maps.DeleteFunc(out, func(_, value string) bool { return value == "" })
	if len(out) == 0 {
		return nil
	}
	return out
}

func parseFilters(fs []string) (filters.Filter, error) {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return nil, errors.Wrap(errdefs.ErrInvalidArgument, err.Error())
	}
	return filter, nil
}

// fields adapts an object to filters: a lookup for the plain fields, and the labels.
func fields(plain map[string]string, labels map[string]string) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch {
		case len(path) == 0:
			return "", false
		case path[0] == "labels":
			value, ok := labels[strings.Join(path[1:], ".")]
			return value, ok
		}
		value, ok := plain[path[0]]
		return value, ok
	})
}
