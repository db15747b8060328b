package policy

import (
	"os"
	"strings"
	"testing"
)

// TestDocumentedExample: what doc.go shows is a valid document, and says what the words around it say.
func TestDocumentedExample(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var example []string
	for line := range strings.Lines(string(text)) {
		line, code := strings.CutPrefix(line, "//\t")
		switch {
		case code && (len(example) > 0 || strings.HasPrefix(line, "schema:")):
			example = append(example, line)
		case !code && len(example) > 0:
			doc := parsed(t, strings.Join(example, ""))
			if d, err := Resolve(doc, &VMRecord{Labels: map[string]string{"env": "prod"}}, "web-1", "h1"); err != nil || d.Class != "gold" {
				t.Errorf("web-1 has class %q, %v", d.Class, err)
			}
			return
		}
	}
	t.Fatal("doc.go has no example")
}
