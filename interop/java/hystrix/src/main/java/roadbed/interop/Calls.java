package roadbed.interop;

import com.netflix.hystrix.HystrixCollapser;
import com.netflix.hystrix.HystrixCollapserKey;
import com.netflix.hystrix.HystrixCommand;
import com.netflix.hystrix.HystrixCommandGroupKey;
import com.netflix.hystrix.HystrixCommandKey;
import com.netflix.hystrix.HystrixCommandProperties;
import com.netflix.hystrix.HystrixCommandProperties.ExecutionIsolationStrategy;
import com.netflix.hystrix.HystrixRequestLog;
import com.netflix.hystrix.HystrixThreadPoolProperties;
import com.netflix.hystrix.contrib.metrics.eventstream.HystrixMetricsStreamServlet;
import com.netflix.hystrix.exception.HystrixBadRequestException;
import com.netflix.hystrix.strategy.concurrency.HystrixRequestContext;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;

/**
 * Makes calls through Hystrix as it is told to, a line each, and streams what became of them. A line is
 * COMMAND ISOLATION OUTCOME FALLBACK TIMES, for instance "GetRecs THREAD failure well 3".
 */
public class Calls {
    static final int TIMEOUT = 300; // milliseconds
    static final int ROOM = 2; // calls that may run at once

    public static void main(String[] args) throws Exception {
        Server server = new Server();
        ServerConnector port = new ServerConnector(server);
        port.setHost("127.0.0.1");
        server.addConnector(port);
        ServletContextHandler paths = new ServletContextHandler();
        paths.addServlet(HystrixMetricsStreamServlet.class, "/hystrix.stream");
        server.setHandler(paths);
        server.start();
        say("ready", "http://127.0.0.1:" + port.getLocalPort());
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            HystrixRequestContext request = HystrixRequestContext.initializeContext();
            try {
                obey(line.split(" "));
                say("done", HystrixRequestLog.getCurrentRequest().getExecutedCommandsAsString());
            } finally {
                request.shutdown();
            }
        }
        System.exit(0);
    }

    static void say(String what, String detail) {
        System.out.println("{\"What\":\"" + what + "\",\"Detail\":[\"" + detail.replaceAll("\\[\\d+ms\\]", "") + "\"]}");
    }

    static void obey(String[] order) throws Exception {
        String name = order[0], outcome = order[2];
        ExecutionIsolationStrategy isolation = ExecutionIsolationStrategy.valueOf(order[1]);
        int times = Integer.parseInt(order[4]);
        if (outcome.equals("batched")) { // so many arguments, and the first of them again
            List<Future<Integer>> answers = new ArrayList<>();
            for (int i = 0; i <= times; i++) {
                answers.add(new Each(name, i % times).queue());
            }
            for (Future<Integer> answer : answers) {
                answer.get();
            }
            return;
        }
        if (outcome.equals("rejected")) { // all places are taken meanwhile
            CountDownLatch begun = new CountDownLatch(ROOM), end = new CountDownLatch(1);
            List<Thread> holders = new ArrayList<>();
            for (int i = 0; i < ROOM; i++) {
                Thread holder = new Thread(() -> {
                    HystrixRequestContext request = HystrixRequestContext.initializeContext();
                    new Call(name, isolation, "success", "none", begun, end).execute();
                    request.shutdown();
                });
                holder.start();
                holders.add(holder);
            }
            begun.await();
            make(name, isolation, "success", order[3], times);
            end.countDown();
            for (Thread holder : holders) {
                holder.join();
            }
            return;
        }
        make(name, isolation, outcome, order[3], times);
    }

    static void make(String name, ExecutionIsolationStrategy isolation, String outcome, String fallback, int times) throws InterruptedException {
        for (int i = 0; i < times; i++) {
            try {
                new Call(name, isolation, outcome, fallback, null, null).execute();
                Thread.sleep(5); // a worker is free again a moment after it has answered
            } catch (RuntimeException expected) {
                // the stream tells of it
            }
        }
    }

    static class Each extends HystrixCollapser<List<Integer>, Integer, Integer> {
        final String name;
        final int argument;

        Each(String name, int argument) {
            super(HystrixCollapser.Setter.withCollapserKey(HystrixCollapserKey.Factory.asKey(name)));
            this.name = name;
            this.argument = argument;
        }

        @Override
        public Integer getRequestArgument() {
            return argument;
        }

        @Override
        protected HystrixCommand<List<Integer>> createCommand(Collection<CollapsedRequest<Integer, Integer>> requests) {
            return new HystrixCommand<List<Integer>>(HystrixCommand.Setter
                    .withGroupKey(HystrixCommandGroupKey.Factory.asKey("Group" + name))
                    .andCommandKey(HystrixCommandKey.Factory.asKey(name))
                    .andCommandPropertiesDefaults(HystrixCommandProperties.Setter()
                            .withExecutionIsolationStrategy(ExecutionIsolationStrategy.SEMAPHORE)
                            .withExecutionTimeoutInMilliseconds(TIMEOUT)
                            .withExecutionIsolationSemaphoreMaxConcurrentRequests(ROOM))) {
                @Override
                protected List<Integer> run() {
                    List<Integer> answers = new ArrayList<>();
                    for (CollapsedRequest<Integer, Integer> request : requests) {
                        answers.add(request.getArgument());
                    }
                    return answers;
                }
            };
        }

        @Override
        protected void mapResponseToRequests(List<Integer> answers, Collection<CollapsedRequest<Integer, Integer>> requests) {
            int i = 0;
            for (CollapsedRequest<Integer, Integer> request : requests) {
                request.setResponse(answers.get(i++));
            }
        }

        @Override
        protected String getCacheKey() {
            return String.valueOf(argument);
        }
    }

    static class Call extends HystrixCommand<Integer> {
        final String outcome, fallback;
        final CountDownLatch begun, end;

        Call(String name, ExecutionIsolationStrategy isolation, String outcome, String fallback, CountDownLatch begun, CountDownLatch end) {
            super(Setter.withGroupKey(HystrixCommandGroupKey.Factory.asKey("Group" + name))
                    .andCommandKey(HystrixCommandKey.Factory.asKey(name))
                    .andCommandPropertiesDefaults(HystrixCommandProperties.Setter()
                            .withExecutionIsolationStrategy(isolation)
                            .withExecutionTimeoutInMilliseconds(TIMEOUT)
                            .withExecutionIsolationSemaphoreMaxConcurrentRequests(ROOM))
                    .andThreadPoolPropertiesDefaults(HystrixThreadPoolProperties.Setter().withCoreSize(ROOM)));
            this.outcome = outcome;
            this.fallback = fallback;
            this.begun = begun;
            this.end = end;
        }

        @Override
        protected Integer run() throws Exception {
            if (begun != null) {
                begun.countDown();
                end.await();
                return 1;
            }
            switch (outcome) {
                case "failure":
                    throw new Exception("broken");
                case "timeout":
                    Thread.sleep(3 * TIMEOUT);
                    break;
                case "bad":
                    throw new HystrixBadRequestException("bad");
                default:
            }
            return 1;
        }

        @Override
        protected Integer getFallback() {
            switch (fallback) {
                case "well":
                    return 2;
                case "ill":
                    throw new IllegalStateException("broken too");
                default:
                    return super.getFallback(); // there is none
            }
        }

        @Override
        protected String getCacheKey() {
            return outcome.equals("cached") ? "same" : null;
        }
    }
}
