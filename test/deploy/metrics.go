// Package deploy holds tests that what is shipped beside the programs fits them: alert rules,
// recording rules and the dashboard.
package deploy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

// metric is one metric as the code declares it.
type metric struct {
	kind   string // Counter, Gauge or Histogram
	labels []string
}

// metricsIn finds every metric that the sources below root declare with the prometheus library, by
// its full name. Declarations whose name is not written out as constants are an error: nobody could
// look for them.
func metricsIn(root string) (map[string]metric, error) {
	found := map[string]metric{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && err == nil {
				err = declared(call, found)
			}
			return err == nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	return found, err
}

// declared adds the metric that a call of prometheus.New… declares, if it is one.
func declared(call *ast.CallExpr, found map[string]metric) error {
	fn, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 {
		return nil
	}
	if pkg, ok := fn.X.(*ast.Ident); !ok || pkg.Name != "prometheus" {
		return nil
	}
	opts, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return nil
	}
	kind := strings.TrimPrefix(fn.Sel.Name, "New")
	kind = strings.TrimSuffix(strings.TrimSuffix(kind, "Vec"), "Func")
	parts := map[string]string{}
	for _, e := range opts.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key, _ := kv.Key.(*ast.Ident)
		if key == nil || (key.Name != "Namespace" && key.Name != "Subsystem" && key.Name != "Name") {
			continue
		}
		text, err := literal(kv.Value)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", fn.Sel.Name, key.Name, err)
		}
		parts[key.Name] = text
	}
	m := metric{kind: kind}
	if len(call.Args) > 1 && strings.HasSuffix(fn.Sel.Name, "Vec") {
		list, ok := call.Args[1].(*ast.CompositeLit)
		if !ok {
			return fmt.Errorf("%s: labels are not written out", fn.Sel.Name)
		}
		for _, e := range list.Elts {
			label, err := literal(e)
			if err != nil {
				return fmt.Errorf("%s: label: %w", fn.Sel.Name, err)
			}
			m.labels = append(m.labels, label)
		}
	}
	name := parts["Name"]
	for _, p := range []string{parts["Subsystem"], parts["Namespace"]} {
		if p != "" {
			name = p + "_" + name
		}
	}
	found[name] = m
	return nil
}

func literal(e ast.Expr) (string, error) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", fmt.Errorf("not a string constant")
	}
	return strconv.Unquote(lit.Value)
}
