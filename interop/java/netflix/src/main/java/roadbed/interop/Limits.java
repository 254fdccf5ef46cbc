package roadbed.interop;

import com.netflix.concurrency.limits.Limit;
import com.netflix.concurrency.limits.limit.AIMDLimit;
import com.netflix.concurrency.limits.limit.Gradient2Limit;
import com.netflix.concurrency.limits.limit.VegasLimit;
import com.netflix.concurrency.limits.limit.WindowedLimit;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.util.concurrent.TimeUnit;

/**
 * Runs the algorithms of concurrency-limits. A line of words begins one: ALGORITHM ARGUMENT...; a line of numbers is a
 * sample for it, START RTT INFLIGHT DROPPED, and answered with its limit. "windowed" before an algorithm puts a window
 * before it.
 */
public final class Limits {
    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in), 1 << 20);
        BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out), 1 << 20);
        Limit limit = null;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] word = line.split(" ");
            if (Character.isLetter(line.charAt(0))) {
                limit = make(word);
                continue;
            }
            limit.onSample(Long.parseLong(word[0]), Long.parseLong(word[1]), Integer.parseInt(word[2]), word[3].equals("1"));
            out.write(Integer.toString(limit.getLimit()));
            out.write('\n');
        }
        out.flush();
    }

    private static Limit make(String[] word) {
        if (word[0].equals("windowed")) {
            String[] rest = new String[word.length - 1];
            System.arraycopy(word, 1, rest, 0, rest.length);
            return WindowedLimit.newBuilder().build(make(rest));
        }
        int initial = Integer.parseInt(word[1]);
        int least = Integer.parseInt(word[2]);
        int most = Integer.parseInt(word[3]);
        double ratio = Double.parseDouble(word[4]);
        return switch (word[0]) {
            case "aimd" -> AIMDLimit.newBuilder().initialLimit(initial).minLimit(least).maxLimit(most).backoffRatio(ratio)
                .timeout(Long.parseLong(word[5]), TimeUnit.NANOSECONDS).build();
            case "vegas" -> VegasLimit.newBuilder().initialLimit(initial).maxConcurrency(most).smoothing(ratio)
                .probeMultiplier(Integer.MAX_VALUE).build(); // which is never
            case "gradient2" -> Gradient2Limit.newBuilder().initialLimit(initial).minLimit(least).maxConcurrency(most).smoothing(ratio)
                .queueSize(Integer.parseInt(word[5])).rttTolerance(Double.parseDouble(word[6])).longWindow(Integer.parseInt(word[7])).build();
            default -> throw new IllegalArgumentException(word[0]);
        };
    }
}
