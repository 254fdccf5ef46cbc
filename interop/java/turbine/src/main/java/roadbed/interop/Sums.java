package roadbed.interop;

import com.netflix.turbine.Turbine;
import com.netflix.turbine.internal.JsonUtility;
import java.net.URI;
import java.util.Arrays;

/** Adds up the streams at the URLs that are its arguments, by Turbine 2, and prints each sum as a line of JSON. */
public class Sums {
    public static void main(String[] args) {
        URI[] streams = Arrays.stream(args).map(URI::create).toArray(URI[]::new);
        Turbine.aggregateHttpSSE(streams)
                .flatMap(group -> group)
                .doOnNext(sum -> {
                    synchronized (System.out) {
                        System.out.println(JsonUtility.mapToJson(sum));
                    }
                })
                .toBlocking()
                .forEach(sum -> { });
    }
}
