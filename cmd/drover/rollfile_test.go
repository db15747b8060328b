package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"drover/scheduler/fleet"
)

// The sample file is one that is taken, and shows every key there is.
func TestRollFileSample(t *testing.T) {
	const path = "../../deploy/config/maintenance.yaml"
	f, err := readRollFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r fleet.Run
	if err := f.into(&r); err != nil {
		t.Errorf("%v", err)
	}
	if len(r.Roll.Hooks) != 2 || !r.Roll.Hooks[1].Away || r.Roll.Healthy.Probe == nil || len(r.Roll.Spec.Windows) != 1 || !r.Roll.Approve {
		t.Errorf("%+v", r.Roll)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[rollFile](), reflect.TypeFor[rollHook](), reflect.TypeFor[rollHealthy]()} {
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(string(text), key+":") {
				t.Errorf("%s does not show %s", path, key)
			}
		}
	}
}
