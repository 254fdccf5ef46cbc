package filter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAttemptsAreToldInZuulsWords(t *testing.T) {
	got := string(AppendAttempts(nil, []Attempt{
		{Number: 1, Status: 503, Duration: 12 * time.Millisecond, Error: "ORIGIN_SERVICE_UNAVAILABLE", Cause: errors.New(`said "no"`), App: "playback",
			ServerGroup: "playback-v012", Instance: "i-0a1", Host: "10.0.3.7", Port: 7001, Region: "us-east-1", Zone: "us-east-1c",
			ReadTimeout: 2 * time.Second, ConnectTimeout: 500 * time.Millisecond, MaxRetries: 1},
		{Number: 2, Status: 200, Host: "[2001:db8::1]"},
		{Number: 3, Status: 200, Host: "playback.example.com"},
	}))
	want := `[{"status":503,"duration":12,"attempt":1,"error":"ORIGIN_SERVICE_UNAVAILABLE","exceptionType":"OutboundException","cause":"said \"no\"","app":"playback","asg":"playback-v012",` +
		`"instanceId":"i-0a1","host":"10.0.3.7","port":7001,"ipAddress":"10.0.3.7","vip":"playback","region":"us-east-1","availabilityZone":"us-east-1c","readTimeout":2000,"connectTimeout":500,"maxRetries":1},` +
		`{"status":200,"duration":0,"attempt":2,"host":"[2001:db8::1]","ipAddress":"2001:db8::1"},{"status":200,"duration":0,"attempt":3,"host":"playback.example.com"}]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(AppendAttempts(nil, nil)); got != "[]" {
		t.Errorf("no attempts: got %s", got)
	}
}

func FuzzAppendJSON(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\x7f\n", "ümläut", "😀", "\xff\xfe", "a\u2028b", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := AppendJSON(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q became %s: %v", s, b, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && back != want {
			t.Errorf("%q came back as %q", s, back)
		}
		for _, c := range b {
			if c < ' ' || c > '~' {
				t.Fatalf("%q became %q, which is not printable ASCII", s, b)
			}
		}
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendJSON(buf[:0], "/api/v1/titles/80057281/episodes?season=3")
	}
}
